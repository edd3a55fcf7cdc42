//! The README's example: loads zlib without `dlopen`, has it compute a checksum, and lets it go again.

use soload::Library;

fn main() -> Result<(), soload::Error> {
    // SAFETY: zlib's constructors are sound, and crc32 has the type that zlib.h states.
    unsafe {
        let zlib = Library::new("libz.so.1")?;
        let crc32 = zlib.get::<extern "C" fn(u64, *const u8, u32) -> u64>(b"crc32")?;
        println!("{:#x}", crc32(0, b"hello".as_ptr(), 5));
        for export in zlib.exports().filter(|export| export.name().starts_with(b"zlib")) {
            println!("{export:?}");
        }
        println!("{:?}", zlib.close()?);
    }
    Ok(())
}
