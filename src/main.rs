//! The process: parse the command line, run one command, turn its outcome into an exit status.

#[global_allocator]
static ALLOCATOR: vljepa::allocator::Allocator = vljepa::allocator::Allocator;

fn main() {
    vljepa::kernel::threads::keep_candle_on_one_thread();
    std::process::exit(vljepa::cli::run());
}
