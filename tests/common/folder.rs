//! A folder in which programs and libraries are made, and in which loaders and `soload ldd` then run.

#![allow(dead_code)] // each test file uses its part

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// A folder in which libraries are made, and in which both loaders then run.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Makes a library, linked against those whose paths are given, with these flags.
    #[track_caller]
    pub(crate) fn library(&self, file: &str, needs: &[&str], flags: &[&str]) -> &Self {
        self.compile(file, needs, &[&["-shared", "-nostdlib"], flags].concat(), "int answer(void) { return 1; }")
    }

    #[track_caller]
    pub(crate) fn program(&self, file: &str, needs: &[&str], flags: &[&str]) -> &Self {
        self.compile(file, needs, flags, "int main(void) { return 0; }")
    }

    #[track_caller]
    pub(crate) fn compile(&self, file: &str, needs: &[&str], flags: &[&str], source: &str) -> &Self {
        self.compile_with("cc", file, needs, flags, source)
    }

    #[track_caller]
    pub(crate) fn compile_with(
        &self,
        compiler: &str,
        file: &str,
        needs: &[&str],
        flags: &[&str],
        source: &str,
    ) -> &Self {
        let out = self.path(file);
        fs::create_dir_all(out.parent().unwrap()).unwrap();
        let mut cc = Command::new(compiler);
        cc.current_dir(self.0.path()).args(["-x", "c", "-", "-fPIC", "-Wl,--no-as-needed"]);
        cc.args(["-Wl,--unresolved-symbols=ignore-all"]).args(flags);
        for need in needs {
            let (folder, name) = need.rsplit_once('/').unwrap_or((".", need));
            cc.arg(format!("-L{folder}")).arg(format!("-l:{name}"));
        }
        let mut child = cc.arg("-o").arg(&out).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "cc makes {file}");
        self
    }

    pub(crate) fn remove(&self, file: &str) -> &Self {
        fs::remove_file(self.path(file)).unwrap();
        self
    }

    pub(crate) fn run(&self, command: &mut Command, environment: &[(&str, &str)]) -> Output {
        for variable in ["LD_LIBRARY_PATH", "LD_PRELOAD", "NO_COLOR", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        command.current_dir(self.0.path()).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn ours(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        let output = self.run(command.arg("ldd").args(arguments), environment);
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    pub(crate) fn theirs(&self, file: &str, environment: &[(&str, &str)]) -> (String, String) {
        let output = self.run(&mut loader(&self.path(file)), environment);
        (without_addresses(&text(&output.stdout)), text(&output.stderr))
    }

    /// Asserts that the loader and we list the same, and returns what.
    #[track_caller]
    pub(crate) fn same(&self, file: &str, environment: &[(&str, &str)]) -> String {
        let (theirs, err) = self.theirs(file, environment);
        assert!(!theirs.is_empty(), "{err}");
        let (_, ours, _) = self.ours(&["--format=ldd", self.path(file).to_str().unwrap()], environment);
        // glibc 2.41 lists itself also where nobody needs it.
        let is_own = |line: &str| line.trim_start().starts_with(LOADER) && !ours.contains(LOADER);
        let theirs: String = theirs.split_inclusive('\n').filter(|line| !is_own(line)).collect();
        assert_eq!(ours, theirs, "{err}");
        ours
    }
}

/// The loader, told to list and not to run, as glibc's `ldd` starts it.
pub(crate) fn loader(file: &Path) -> Command {
    let mut command = Command::new(LOADER);
    command.arg(file).env("LD_TRACE_LOADED_OBJECTS", "1").env("LD_WARN", "").env("LD_BIND_NOW", "");
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every address replaced by zero.
pub(crate) fn without_addresses(text: &str) -> String {
    let mut parts = text.split("(0x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("(0x0000000000000000");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    out
}

pub(crate) const RPATH: &str = "-Wl,--disable-new-dtags,-rpath,";
pub(crate) const RUNPATH: &str = "-Wl,--enable-new-dtags,-rpath,";
