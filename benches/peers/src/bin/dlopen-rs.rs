//! The worker of dlopen-rs.

use dlopen_rs::{ElfLibrary, OpenFlags};

fn main() {
    soload_peers::main(|| {
        Ok(Box::new(|path| {
            let library = ElfLibrary::dlopen(path, OpenFlags::RTLD_NOW).map_err(|error| format!("{error:?}"))?;
            std::mem::forget(library);
            Ok(())
        }))
    })
}
