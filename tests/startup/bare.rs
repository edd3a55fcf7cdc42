//! A program that does nothing.

fn main() {
    std::hint::black_box(str::len as fn(&str) -> usize);
}
