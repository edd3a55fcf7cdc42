//! The `soload` command: reads what was typed, calls the library, prints the answer.

#![deny(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
