//! The drop-in as a file, for programs to be run with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `libsoload_dl.so`, built if need be: cargo builds only the package's own targets for its tests.
pub(crate) fn drop_in() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        let target = own.ancestors().nth(3).unwrap().to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--package", "soload_dl", "--target-dir"])
            .arg(&target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join("debug/libsoload_dl.so")
    })
}
