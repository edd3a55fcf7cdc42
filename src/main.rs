//! The `soload` command.
fn main() {}
