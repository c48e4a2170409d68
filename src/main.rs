//! The process: parse the command line, run one command, turn its outcome into an exit status.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    std::process::exit(vljepa::cli::run());
}
