//! A program that could open libraries, and opens none.

#![allow(unsafe_code)]

type Open = unsafe fn(&'static str) -> Result<soload::Library, soload::Error>;

fn main() {
    std::hint::black_box(soload::Library::new::<&'static str> as Open);
}
