//! Libraries that are made to measure with: so many relocations, symbols, dependencies, and nothing else, no C library.

#![allow(dead_code)] // each bench uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of libraries, made once: later runs find it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder of that name, filled by `make` if it is not there yet.
    pub(crate) fn made_by(name: &str, make: impl FnOnce(&Folder)) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("synthetic").join(name);
        let folder = Self(path);
        let done = folder.0.join("done");
        if !done.exists() {
            fs::create_dir_all(&folder.0).unwrap();
            make(&folder);
            fs::write(done, "").unwrap();
        }
        folder
    }

    pub(crate) fn path(&self, library: &str) -> PathBuf {
        self.0.join(format!("lib{library}.so"))
    }

    /// Makes a library out of assembly; it needs `needed` of the same folder.
    pub(crate) fn library(&self, name: &str, assembly: &str, needed: &[String]) {
        let source = self.0.join(format!("{name}.s"));
        fs::write(&source, format!("{assembly}\n.section .note.GNU-stack,\"\",@progbits\n")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-nostdlib", "-Wl,--hash-style=gnu,-z,now,--no-as-needed,-rpath,$ORIGIN"]);
        compiler.arg(format!("-Wl,-soname,lib{name}.so")).arg("-o").arg(self.path(name)).arg(&source);
        compiler.arg("-L").arg(&self.0).args(needed.iter().map(|needed| format!("-l{needed}")));
        let made = compiler.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::remove_file(source).unwrap();
    }

    /// The names of so many libraries that give symbols. Loaders go by names, so they are not the same in two folders.
    fn provider_names(&self, count: usize) -> Vec<String> {
        let folder = self.0.file_name().unwrap().to_str().unwrap();
        (0..count).map(|number| format!("{folder}-{number:04}")).collect()
    }

    pub(crate) fn provider_paths(&self, count: usize) -> Vec<PathBuf> {
        self.provider_names(count).iter().map(|name| self.path(name)).collect()
    }

    /// Makes `count` libraries of `symbols` variables each; gives their names.
    pub(crate) fn providers(&self, count: usize, symbols: usize) -> Vec<String> {
        let names = self.provider_names(count);
        for (number, library) in names.iter().enumerate() {
            let variables: String = (0..symbols)
                .map(|index| symbol(number, index))
                .map(|name| format!(".globl {name}\n.type {name},@object\n.size {name},8\n{name}: .quad 0\n"))
                .collect();
            self.library(library, &format!(".data\n{variables}"), &[]);
        }
        names
    }
}

/// The name of a variable of a provider: as long as one of C++ usually is.
pub(crate) fn symbol(library: usize, index: usize) -> String {
    format!("_ZN5bench6module{library:04}7Widget{index:06}12do_the_thingERKNS_4ItemE")
}
