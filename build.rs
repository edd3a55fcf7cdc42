//! Compiles `test-libs/` into `$OUT_DIR/test-libs/`, and the demonstration plugin with them.
//!
//! One source file is one sentence: its first comment says what must happen. This script knows no fixture; it only
//! interprets the directives in the comments at the top of each file:
//!
//! | directive | meaning |
//! |---|---|
//! | `// cc: FLAGS…` | flags for the compiler and linker; `$OUT` is the output directory, other `$NAMES` stay |
//! | `// needs: NAME…` | link against these outputs, which are built first |
//! | `// runpath: PATHS` | where needed libraries are looked for; `$ORIGIN` without this line, nowhere if it is empty |
//! | `// rpath: PATHS` | the same as DT_RPATH |
//! | `// soname: NAME` | the library's DT_SONAME; none is set otherwise |
//! | `// versions: SCRIPT` | the linker's version script; several lines make one script |
//! | `// only: ARCH` | made only for this architecture, such as `x86_64` |
//! | `// build: NAME [FLAGS…]` | makes NAME instead of `lib<stem>.so`; several lines make variants |
//!
//! A directive before the first `build:` holds for all variants, one after it for the variant above. Names of outputs
//! are relative to the output directory and may have folders; `x` is short for `libx.so`. Outputs are shared libraries,
//! unless a flag says otherwise (`-pie`, `-no-pie`).
//!
//! Who uses the library needs no C compiler: nothing is built for a package that depends on it without the command, and the
//! published package has no `test-libs/`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use std::{env, fs};

/// One output and how to make it.
#[derive(Clone, Default)]
struct Fixture {
    source: PathBuf,
    flags: Vec<String>,
    needs: Vec<String>,
    runpath: Option<String>,
    rpath: String,
    versions: String,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let out = out_dir.join("test-libs");
    fs::create_dir_all(&out).expect("OUT_DIR is writable");
    let mut demo = out.join("libdemo.so");

    // The command has the demonstration in it; whoever builds the package itself may run its tests.
    let wanted = env::var_os("CARGO_FEATURE_CLI").is_some() || option_env!("CARGO_PRIMARY_PACKAGE").is_some();
    if wanted && Path::new("test-libs").is_dir() && can_compile() {
        println!("cargo:rerun-if-changed=test-libs");
        // A symbol that the test executables define, so that tests can ask whether it comes first.
        println!("cargo:rustc-link-arg-tests=-Wl,--export-dynamic-symbol=soload_test_*");
        if let Err(message) = build_all(&out) {
            eprintln!("{message}");
            std::process::exit(1);
        }
    } else {
        demo = out_dir.join("no-demo");
        fs::write(&demo, []).expect("OUT_DIR is writable");
    }
    println!("cargo:rustc-env=SOLOAD_TEST_LIBS={}", out.display());
    println!("cargo:rustc-env=SOLOAD_DEMO={}", demo.display());
}

/// Without a compiler for another machine, one can still check the crate for it; tests need one.
fn can_compile() -> bool {
    let native = env::var("HOST") == env::var("TARGET");
    let found = || compiler(false).is_ok_and(|compiler| compiler.to_command().arg("--version").output().is_ok());
    if native || found() {
        return true;
    }
    println!("cargo:warning=no C compiler for this target: test-libs/ and the demonstration plugin are not built");
    false
}

/// Builds what is out of date, after what it needs, on as many threads as cargo allows.
fn build_all(out: &Path) -> Result<(), String> {
    let mut waiting = BTreeMap::new();
    for entry in fs::read_dir("test-libs").map_err(|e| format!("test-libs: {e}"))? {
        let source = entry.map_err(|e| format!("test-libs: {e}"))?.path();
        if matches!(source.extension().and_then(OsStr::to_str), Some("c" | "cpp")) {
            waiting.extend(fixtures_of(&source)?);
        }
    }
    let compilers = [compiler(false), compiler(true)];
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);

    while !waiting.is_empty() {
        let blocked = |f: &Fixture| f.needs.iter().any(|n| waiting.contains_key(n));
        let ready: Vec<_> = waiting.iter().filter(|(_, f)| !blocked(f)).map(|(n, f)| (n.clone(), f.clone())).collect();
        if ready.is_empty() {
            return Err(format!("test-libs: these need each other: {:?}", waiting.keys()));
        }
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((name, fixture)) = ready.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let is_cpp = fixture.source.extension() == Some(OsStr::new("cpp"));
                        let compiler = compilers[usize::from(is_cpp)].as_ref().map_err(String::clone);
                        let built = compiler.and_then(|compiler| build(compiler, out, name, fixture));
                        failures.lock().unwrap().extend(built.err());
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        if !failures.is_empty() {
            return Err(failures.join("\n"));
        }
        for (name, _) in ready {
            waiting.remove(&name);
        }
    }
    Ok(())
}

/// What any of the sources may include.
fn headers() -> Vec<PathBuf> {
    let files = fs::read_dir("test-libs").into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension() == Some(OsStr::new("h"))).collect()
}

/// The outputs that one source asks for.
fn fixtures_of(source: &Path) -> Result<BTreeMap<String, Fixture>, String> {
    let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
    let words = |rest: &str| rest.split_whitespace().map(String::from).collect::<Vec<_>>();
    let mut common = Fixture { source: source.into(), ..Fixture::default() };
    let mut variants: Vec<(String, Fixture)> = Vec::new();
    for line in text.lines().map_while(|line| line.strip_prefix("//")) {
        let Some((directive, rest)) = line.trim().split_once(':') else { continue };
        let target = variants.last_mut().map_or(&mut common, |(_, variant)| variant);
        match directive {
            "only" if env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok(rest.trim()) => return Ok(BTreeMap::new()),
            "only" => {}
            "cc" => target.flags.extend(words(rest)),
            "needs" => target.needs.extend(words(rest).iter().map(|name| output_name(name))),
            "runpath" => target.runpath = Some(rest.trim().into()),
            "rpath" => target.rpath = rest.trim().into(),
            "soname" => target.flags.push(format!("-Wl,-soname,{}", rest.trim())),
            "versions" => target.versions += rest,
            "build" => {
                let mut words = words(rest);
                if words.is_empty() {
                    return Err(format!("{}: `build:` without a name", source.display()));
                }
                let name = output_name(&words.remove(0));
                let mut variant = common.clone();
                variant.flags.extend(words);
                variants.push((name, variant));
            }
            _ => {} // prose with a colon
        }
    }
    if variants.is_empty() {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        variants.push((output_name(&stem), common));
    }
    Ok(variants.into_iter().collect())
}

/// `x` is short for `libx.so`; a name with a dot or a folder is taken as it is.
fn output_name(name: &str) -> String {
    if name.contains(['.', '/']) { name.into() } else { format!("lib{name}.so") }
}

/// The compiler that cargo's environment asks for, with the same code whatever the profile.
fn compiler(cpp: bool) -> Result<cc::Tool, String> {
    let mut build = cc::Build::new();
    build.cpp(cpp).opt_level(1).debug(false).warnings(true).cargo_metadata(false);
    build.try_get_compiler().map_err(|e| format!("test-libs/ needs a C compiler: {e}"))
}

fn build(compiler: &cc::Tool, out: &Path, name: &str, fixture: &Fixture) -> Result<(), String> {
    let output = out.join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let script = env::current_exe().unwrap_or_default();
    let newest =
        fixture.needs.iter().map(|need| out.join(need)).chain(headers()).chain([fixture.source.clone(), script]);
    if newest.map(|input| modified(&input)).max() < Some(modified(&output)) {
        return Ok(());
    }

    let flags: Vec<_> = fixture.flags.iter().map(|flag| flag.replace("$OUT", &out.to_string_lossy())).collect();
    // Renamed when it is whole: an interrupted build leaves nothing, a running test keeps the file it has mapped.
    let partial = out.join("partial").join(name);
    for file in [&output, &partial] {
        fs::create_dir_all(file.parent().unwrap_or(out)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let mut command: Command = compiler.to_command();
    command.arg(&fixture.source).arg("-o").arg(&partial);
    if !flags.iter().any(|flag| flag == "-pie" || flag == "-no-pie") {
        command.args(["-fPIC", "-shared"]);
    }
    // Libraries before the flags would do, but -l needs its place after the source.
    command.args(&flags).arg("-Wl,--no-as-needed");
    for need in &fixture.needs {
        let path = out.join(need);
        let (dir, file) = (path.parent().unwrap_or(out), path.file_name().unwrap_or_default());
        command.arg("-L").arg(dir).arg(format!("-l:{}", file.to_string_lossy()));
        command.arg(format!("-Wl,-rpath-link,{}", dir.display()));
    }
    // Before glibc 2.34 these are libraries of their own.
    command.args(["-Wl,--push-state,--as-needed", "-ldl", "-lpthread", "-Wl,--pop-state"]);
    let origin = if fixture.needs.is_empty() { "" } else { "$ORIGIN" };
    match fixture.runpath.as_deref().unwrap_or(origin) {
        _ if !fixture.rpath.is_empty() => command.arg(format!("-Wl,--disable-new-dtags,-rpath,{}", fixture.rpath)),
        "" => &mut command,
        runpath => command.arg(format!("-Wl,--enable-new-dtags,-rpath,{runpath}")),
    };
    if !fixture.versions.is_empty() {
        let script = output.with_extension("versions");
        fs::write(&script, &fixture.versions).map_err(|e| format!("{}: {e}", script.display()))?;
        command.arg(format!("-Wl,--version-script={}", script.display()));
    }
    let result = command
        .output()
        .map_err(|e| format!("{}: cannot run {}: {e}", fixture.source.display(), compiler.path().display()))?;
    if result.status.success() {
        return fs::rename(&partial, &output).map_err(|e| format!("{}: {e}", output.display()));
    }
    let message = String::from_utf8_lossy(&result.stderr);
    let arguments: Vec<_> = command.get_args().collect();
    Err(format!(
        "{}: cannot build {name}: {}\n{} {arguments:?}\n{message}",
        fixture.source.display(),
        result.status,
        compiler.path().display()
    ))
}
