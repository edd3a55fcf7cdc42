//! AddressSanitizer finds nothing to complain of while a program built with it opens, uses and closes libraries built with it.

#[path = "common/drop_in.rs"]
mod drop_in;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use drop_in::drop_in;

/// Sources of fixtures, with what each is to be built with, and the function to call.
const LIBRARIES: &[(&str, &[&str], &str)] = &[
    ("ifunc.c", &[], "call_exported"),
    ("throws.cpp", &[], "thrown_and_caught"),
    ("lazy_missing.c", &["-Wl,-z,lazy"], "call_present"),
    ("thread_local.c", &[], "next_value"),
    ("thread_local.c", &["-ftls-model=initial-exec"], "next_value"),
    ("thread_local.c", &["-mtls-dialect=gnu2"], "next_value"),
    ("nested_thread_local.cpp", &[], "use_thread_locals"),
];

/// A folder with a program and libraries, all built with AddressSanitizer.
struct Built {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Built {
    /// `None` if there is no compiler that can.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("test-libs");
        let compile = |source: &Path, output: &Path, options: &[&str]| {
            let compiler = if source.extension().is_some_and(|extension| extension == "c") { "cc" } else { "c++" };
            let mut command = Command::new(compiler);
            command.args(["-g", "-fsanitize=address"]).arg(source).arg("-o").arg(output).args(options);
            command.output().is_ok_and(|output| output.status.success())
        };
        let program = folder.path().join("program");
        if !compile(&sources.join("calls_program.cpp"), &program, &[]) {
            eprintln!("DID NOT RUN: this needs a compiler with AddressSanitizer, such as g++");
            assert!(std::env::var_os("CI").is_none(), "CI installs build-essential");
            return None;
        }
        let library = |number: usize| folder.path().join(format!("lib{number}.so"));
        thread::scope(|scope| {
            for (number, (source, options, _)) in LIBRARIES.iter().enumerate() {
                let (library, sources, compile) = (library(number), &sources, &compile);
                let options = [&["-shared", "-fPIC"], *options].concat();
                scope.spawn(move || assert!(compile(&sources.join(source), &library, &options), "{source}"));
            }
        });
        let functions = LIBRARIES.iter().map(|(.., function)| function).enumerate();
        let arguments =
            functions.map(|(number, function)| format!("{}:{function}", library(number).display())).collect();
        let broken = folder.path().join("broken.c");
        fs::write(&broken, "int numbers[4], five = 5;\nint read_past_the_end(void) { return numbers[five]; }\n")
            .unwrap();
        assert!(compile(&broken, &folder.path().join("libbroken.so"), &["-shared", "-fPIC"]));
        Some(Self { folder, arguments })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn broken(&self) -> String {
        format!("{}:read_past_the_end", self.path("libbroken.so").display())
    }

    /// The program, with nothing of ours.
    fn program(&self) -> Command {
        let mut command = Command::new(self.path("program"));
        command.env_remove("LD_PRELOAD").env_remove("ASAN_OPTIONS");
        command
    }

    /// The program by `soload exec`.
    fn exec(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soload"));
        command.args(["exec", "--trace", "--"]).arg(self.path("program")).env("SOLOAD_DL", drop_in());
        command.env_remove("LD_PRELOAD").env_remove("ASAN_OPTIONS");
        command
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn libraries_and_program_are_clean_and_what_is_not_is_reported_as_ever() {
    let Some(built) = Built::new() else { return };
    let host = built.program().args(&built.arguments).output().unwrap();
    assert!(host.status.success(), "glibc's loader is clean: {}", text(&host));

    let ours = built.exec().args(&built.arguments).output().unwrap();
    assert!(ours.status.success(), "{}", text(&ours));
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&host.stdout));
    for number in 0..LIBRARIES.len() {
        assert!(text(&ours).contains(&format!("loaded lib{number}.so")), "soload has loaded it: {}", text(&ours));
    }
    assert!(!text(&ours).contains("Sanitizer"), "{}", text(&ours));

    // The same report, down to the line of the library.
    for mut command in [built.program(), built.exec()] {
        let output = command.arg(built.broken()).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains("AddressSanitizer: global-buffer-overflow"), "{said}");
        assert!(said.contains("broken.c:2 in read_past_the_end"), "{said}");
    }
}
