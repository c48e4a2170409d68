//! The process: parse the command line, run one command, turn its outcome into an exit status.

fn main() {
    std::process::exit(vljepa::cli::run());
}
