//! The worker of elf_loader.

use std::ffi::CString;
use std::fmt::Debug;
use std::path::Path;

use elf_loader::arch::NativeArch;
use elf_loader::linker::{GraphModule, LdCache, SearchConfig, SearchPathResolver};
use elf_loader::tls::DefaultTlsResolver;
use elf_loader::{AddressSpaceId, Domain, LinkContext, Linker, Loader, host, input};
use soload_peers::Open;

/// What the process has already, which elf_loader is told of explicitly.
const HOST: [&str; 9] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
];

fn main() {
    soload_peers::main(open)
}

/// What its own benches prepare before the clock is prepared before the clock here: the cache, and the host's exports.
fn open() -> Result<Open, String> {
    let cache = LdCache::load_system().map_err(said)?;
    let domain = Domain::native(AddressSpaceId::PROCESS).with_tls(DefaultTlsResolver::new()).map_err(said)?;
    let mut modules = Vec::new();
    for name in HOST {
        let known = CString::new(name).map_err(said)?;
        if unsafe { libc::dlopen(known.as_ptr(), libc::RTLD_NOW) }.is_null() {
            continue;
        }
        let Some(path) = cache.candidates(name).next() else { continue };
        let module = unsafe { host::open(&domain, input::Path::new(path.as_bytes()), name) };
        modules.push(GraphModule::new(name.to_owned(), module.map_err(said)?));
    }
    let mut context: LinkContext<(), NativeArch, DefaultTlsResolver> = LinkContext::new(domain);
    context.insert_batch(modules.into_iter()).map_err(said)?;
    let resolver = SearchPathResolver::with_config(SearchConfig::new().cache(cache).default_dirs(["/lib", "/usr/lib"]));
    let linker = Linker::new().with_loader(Loader::new()).with_resolver(resolver);
    Ok(Box::new(move |path| {
        if Path::new(path).file_name().is_some_and(|name| HOST.iter().any(|host| name == *host)) {
            return Ok(());
        }
        let loaded = linker.run().load(&mut context, input::PathBuf::from(path)).map_err(said)?;
        std::mem::forget(loaded);
        Ok(())
    }))
}

fn said(error: impl Debug) -> String {
    format!("{error:?}")
}
