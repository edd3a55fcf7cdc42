//! The drop-in as a file, for programs to be run with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `libsoload_dl.so`, built if need be, as optimised as we are: cargo builds only the package's own targets for its tests.
pub(crate) fn drop_in() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        // In the target directory, then that of the profile, then that of tests or examples.
        let (built_in, target) = (own.ancestors().nth(2).unwrap(), own.ancestors().nth(3).unwrap());
        let profile = if built_in.ends_with("release") { "release" } else { "dev" };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--package", "soload_dl", "--profile", profile, "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        built_in.join("libsoload_dl.so")
    })
}
