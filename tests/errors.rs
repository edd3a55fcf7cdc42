//! What each error says: its line and its help, word for word, after an open that really fails for that reason.

#![cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // opens what cannot be opened, asks for what is not called

mod common;

use std::ffi::c_void;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::elf::Elf;
use common::*;
use object::LittleEndian as LE;
use object::elf::*;
use soload::{Error, Library, OpenOptions};

/// Checks the kind, the line and the help of an error. In the texts `$SCRATCH` and `$LIBS` stand for the folders that
/// the test knows, `$EXE` for the name of the program.
#[track_caller]
fn says(kind: &str, error: &Error, line: &str, help: Option<&str>) {
    let exe = std::env::current_exe().unwrap();
    let known = [
        (scratch(), "$SCRATCH"),
        (PathBuf::from(env!("SOLOAD_TEST_LIBS")), "$LIBS"),
        (exe.clone(), "$EXE"),
        (exe.file_name().unwrap().into(), "$EXE"),
        // As some systems' cache has it.
        ("/usr/lib/x86_64-linux-gnu".into(), "/lib/x86_64-linux-gnu"),
    ];
    let plain = |text: String| known.iter().fold(text, |text, (path, name)| text.replace(path.to_str().unwrap(), name));
    assert!(format!("{:?}", error.kind()).starts_with(kind), "expected {kind}: {error:?}");
    assert_eq!(plain(error.to_string()), line);
    assert_eq!(error.help().map(plain).as_deref(), help, "{error}");
}

/// The error of opening a path.
#[track_caller]
fn refused(path: impl AsRef<Path>) -> Error {
    ours(path).expect_err("an error")
}

fn text_file(name: &str, text: &str) -> PathBuf {
    fs::write(scratch().join(name), text).unwrap();
    scratch().join(name)
}

#[test]
#[cfg(feature = "snapshots")]
fn a_directory_for_snapshots_that_others_can_write() {
    on_ours(|_| {
        let open = soload::Snapshots::open(&scratch());
        drop(open.expect("a directory of our own"));
        fs::set_permissions(scratch(), fs::Permissions::from_mode(0o777)).unwrap();
        says(
            "Snapshot",
            &soload::Snapshots::open(&scratch()).unwrap_err(),
            "$SCRATCH: directory refused: $SCRATCH: permissions: expected not writable by others, found 0777",
            Some("use a directory of your own that nobody else can write: `mkdir -m 700 DIR`"),
        );
    });
}

#[test]
#[cfg(feature = "serve")]
fn a_socket_where_something_else_is() {
    on_ours(|_| {
        let file = text_file("file", "");
        says(
            "Server",
            &soload::Server::bind(file).unwrap_err(),
            "$SCRATCH/file: expected a socket or nothing, found another kind of file",
            None,
        );
    });
}

#[test]
fn what_is_not_there() {
    on_ours(|_| {
        let open = |name: &str| unsafe { OpenOptions::new().search_dir(scratch()).open(name) }.expect_err("an error");

        let error = open("libsoload_absent.so");
        let soload::ErrorKind::NotFound { tried } = error.kind() else { panic!("{error}") };
        says(
            "NotFound",
            &error,
            &format!(
                "libsoload_absent.so: library not found: expected it in OpenOptions::search_dir, ld.so.cache or default \
                 directory, found it in none of {} places",
                tried.len()
            ),
            Some(
                "install the package that has it, or name its directory in LD_LIBRARY_PATH, RUNPATH or \
                 OpenOptions::search_dir",
            ),
        );

        // The library of another machine is passed over; that it is there is what one wants to know.
        let mut other = Elf::of("bss");
        other.header().e_machine.set(LE, EM_AARCH64);
        other.save("libsoload_absent.so");
        let line = "libsoload_absent.so: library not found: expected it in OpenOptions::search_dir, ld.so.cache or \
                    default directory, found only $SCRATCH/libsoload_absent.so (machine: expected x86-64, found AArch64)";
        let error = open("libsoload_absent.so");
        says("NotFound", &error, line, error.help().as_deref());

        let error = refused(fixture("missing_dependency"));
        assert_eq!(error.needed_by(), Some(fixture("missing_dependency").as_path()));
        assert!(error.to_string().contains("expected it in RUNPATH of "), "{error}");

        let error = unsafe { Library::new("") }.expect_err("an error");
        says("NotFound", &error, ": library not found: expected a name, found an empty one", error.help().as_deref());

        says(
            "Open",
            &refused(scratch().join("absent.so")),
            "$SCRATCH/absent.so: cannot open the file: No such file or directory",
            Some("check the spelling of the path"),
        );
        says(
            "NulInName",
            &unsafe { Library::new("lib\0x.so") }.expect_err("an error"),
            r"lib\u{0}x.so: name: expected no NUL byte, found one",
            None,
        );
        says(
            "NotLoaded",
            &unsafe { OpenOptions::new().no_load(true).open(fixture("bss")) }.expect_err("an error"),
            "$LIBS/libbss.so: expected it to be loaded already, found that it is not",
            Some("open it without OpenOptions::no_load"),
        );

        let unreadable = Elf::of("bss").save("unreadable.so");
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o000)).unwrap();
        stop_being_root();
        says(
            "Open",
            &refused(unreadable),
            "$SCRATCH/unreadable.so: cannot open the file: Permission denied",
            Some("check the permissions of the file and of its directories"),
        );
    });
}

#[test]
fn what_is_no_shared_object() {
    on_ours(|_| {
        says(
            "NotMappable",
            &refused(scratch()),
            "$SCRATCH: file type: expected a regular file, found a directory, which cannot be mapped",
            Some("name the library inside it, or give the directory to OpenOptions::search_dir"),
        );
        says(
            "NotMappable",
            &refused("/dev/zero"),
            "/dev/zero: file type: expected a regular file, found a character device (a terminal or the like), which \
             cannot be mapped",
            Some("only a regular file has pages; copy the content to one and open that"),
        );
        says(
            "LinkerScript",
            &refused(text_file("script.so", "/* GNU ld script */\nGROUP ( /lib/x86_64-linux-gnu/libc.so.6 )\n")),
            "$SCRATCH/script.so: expected ELF magic, found a GNU ld script",
            Some("this is a GNU ld script for the static linker; open /lib/x86_64-linux-gnu/libc.so.6 instead"),
        );
        says(
            "NotElf",
            &refused(text_file("text.so", "#!/bin/sh\n")),
            "$SCRATCH/text.so: expected ELF magic, found \"#!/b\"",
            Some("`file $SCRATCH/text.so` tells what it is"),
        );
        says(
            "NotElf",
            &refused(text_file("empty.so", "")),
            "$SCRATCH/empty.so: expected ELF magic, found an empty file",
            Some("`file $SCRATCH/empty.so` tells what it is"),
        );

        let mut other = Elf::of("bss");
        other.header().e_machine.set(LE, EM_AARCH64);
        says(
            "Foreign",
            &refused(other.save("other.so")),
            "$SCRATCH/other.so: machine: expected x86-64, found AArch64",
            Some("it was built for another kind of machine; get the build for this one (x86-64)"),
        );
        let mut newer = Elf::of("bss");
        newer.header().e_ident.os_abi = ELFOSABI_GNU;
        newer.header().e_ident.abi_version = 4;
        says(
            "Foreign",
            &refused(newer.save("newer.so")),
            "$SCRATCH/newer.so: version of the system's ABI (EI_ABIVERSION): expected at most 3, found 4",
            Some("it was built for another operating system, or for a newer C library; get the build for this one"),
        );
        says(
            "Foreign",
            &refused(fixture("programs/pie")),
            "$LIBS/programs/pie: type: expected a shared object, found a position-independent executable",
            Some("a program is run, not opened; build its code as a library (cc -fPIC -shared)"),
        );
        let mut relocatable = Elf::of("bss");
        relocatable.header().e_type.set(LE, ET_REL);
        says(
            "Foreign",
            &refused(relocatable.save("bss.o")),
            "$SCRATCH/bss.o: type: expected a shared object, found a relocatable object (.o)",
            Some("link it first: `cc -shared -o LIBRARY.so $SCRATCH/bss.o`"),
        );
    });
}

#[test]
fn what_contradicts_itself() {
    on_ours(|_| {
        link("absolute", "libabsolute.so");
        let damaged = |damage: fn(&mut Elf)| {
            let mut elf = Elf::of("damaged_seed");
            damage(&mut elf);
            refused(elf.save("damaged.so"))
        };
        let compare = |option: &str| {
            format!("the file is damaged or was edited; compare with `readelf {option} $SCRATCH/damaged.so`")
        };

        let error = damaged(|elf| {
            let text = elf.segment(PT_LOAD, 1);
            let size = text.p_memsz.get(LE);
            text.p_memsz.set(LE, 0x10);
            text.p_filesz.set(LE, size);
        });
        let size = Elf::of("damaged_seed").segments(PT_LOAD)[1].p_filesz.get(LE);
        let line = format!(
            "$SCRATCH/damaged.so: p_filesz of program header 1 at file offset 0x78: expected at most p_memsz 0x10, found \
             {size:#x}"
        );
        says("Malformed", &error, &line, Some(&compare("-lW")));

        let error = damaged(|elf| elf.bytes.truncate(0x2000));
        let last = Elf::of("damaged_seed").segments(PT_LOAD);
        let cut = last.iter().position(|s| s.p_offset.get(LE) + s.p_filesz.get(LE) > 0x2000).unwrap();
        let end = last[cut].p_offset.get(LE) + last[cut].p_filesz.get(LE);
        let at = 0x40 + 56 * cut;
        let line = format!(
            "$SCRATCH/damaged.so: p_offset + p_filesz of program header {cut} at file offset {at:#x}: expected bytes within \
             the file of 0x2000 bytes, found {end:#x}"
        );
        let help = "the file is shorter than it says: an unfinished copy or download; get it anew";
        says("Malformed", &error, &line, Some(help));

        says(
            "Malformed",
            &damaged(|elf| elf.relocation(R_X86_64_RELATIVE).r_offset.set(LE, 0x7000_0000)),
            "$SCRATCH/damaged.so: relocated place at address 0x70000000: expected an address in a writable segment, found \
             none there",
            Some(&compare("-rW")),
        );
        says(
            "Malformed",
            &damaged(|elf| elf.dynamic(DT_SYMENT).d_val.set(LE, 16)),
            "$SCRATCH/damaged.so: DT_SYMENT: expected 24, found 16",
            Some(&compare("-dW")),
        );
        says(
            "Limit",
            &damaged(|elf| elf.header().e_phnum.set(LE, 0xfffe)),
            "$SCRATCH/damaged.so: program headers (e_phnum): expected at most 1170, found 65534",
            Some(&compare("-hW")),
        );
        let name = "x".repeat(5000);
        says(
            "Limit",
            &unsafe { Library::new(&name) }.expect_err("an error"),
            &format!("{name}: length of a library's name: expected at most 4095, found 5000"),
            None,
        );
    });
}

#[test]
fn what_cannot_be_bound() {
    on_ours(|_| {
        says(
            "UndefinedSymbols",
            &refused("undefined_function"),
            "$LIBS/libundefined_function.so: undefined symbol soload_undefined_function: expected a definition in $EXE, \
             libgcc_s.so.1, libc.so.6, ld-linux-x86-64.so.2 or libundefined_function.so, found none",
            Some("link the library against what defines it, or open that first with OpenOptions::global"),
        );
        let mut mangled = Elf::of("undefined_function");
        mangled.rename("soload_undefined_function", "_ZN6soload9undefined1fEvv");
        let help = refused(mangled.save("mangled.so")).help().unwrap();
        assert!(help.ends_with("OpenOptions::global; `c++filt` shows C++ names as they were written"), "{help}");

        let mut future = Elf::of("bss");
        future.needed_version("GLIBC_2.2.5").vna_hash.set(LE, sysv_hash(b"GLIBC_9.9.9"));
        future.rename("GLIBC_2.2.5", "GLIBC_9.9.9");
        says(
            "MissingVersion",
            &refused(future.save("future.so")),
            "$SCRATCH/future.so: version GLIBC_9.9.9 of /lib/x86_64-linux-gnu/libc.so.6 (wanted by symbol \
             __cxa_finalize): expected its definition, found none",
            Some(
                "it was built on a system with a newer C library; build it on this one, or on the oldest it shall run on",
            ),
        );
        let mut newer = Elf::of("versions_default");
        newer.needed_version("V2").vna_hash.set(LE, sysv_hash(b"V9"));
        newer.rename("V2", "V9");
        link("versions_provider", "libversions_provider.so");
        says(
            "MissingVersion",
            &refused(newer.save("newer.so")),
            "$SCRATCH/newer.so: version V9 of $SCRATCH/libversions_provider.so (wanted by symbol foo): expected its \
             definition, found none",
            Some(
                "$SCRATCH/libversions_provider.so is older than the one this was linked against; update it or rebuild",
            ),
        );

        let library = ours("bss").unwrap();
        let nm = "`nm -D $LIBS/libbss.so` lists what it has; C++ and Rust change the names of functions unless they are \
                  declared extern \"C\"";
        says(
            "NoSuchSymbol",
            &unsafe { library.get::<*const c_void>("no_such_symbol") }.unwrap_err(),
            "$LIBS/libbss.so: symbol no_such_symbol: expected a definition, found none",
            Some(nm),
        );
        says(
            "NoSuchSymbol",
            &unsafe { library.get_version::<*const c_void>("initialised", "V1") }.unwrap_err(),
            "$LIBS/libbss.so: symbol initialised@V1: expected a definition, found none",
            Some(nm),
        );
        let program = Library::this();
        says(
            "NoSuchSymbol",
            &unsafe { program.get::<*const c_void>("no_such_symbol") }.unwrap_err(),
            "the program: symbol no_such_symbol: expected a definition, found none",
            Some("C++ and Rust change the names of functions unless they are declared extern \"C\""),
        );
        says(
            "WrongSize",
            &unsafe { library.get::<u8>("initialised") }.unwrap_err(),
            "$LIBS/libbss.so: type of the symbol: expected the size of a pointer, 8 bytes, found 1 bytes",
            Some("ask for a function pointer, or for a pointer to the variable"),
        );
    });
}

#[test]
fn what_cannot_be_relocated() {
    on_ours(|_| {
        link("absolute", "libabsolute.so");
        let retyped = |symbol: &str, kind: RelocationType| {
            let mut elf = Elf::of("relocation_types");
            let index = elf.symbol_index(symbol) as u32;
            let relocation = elf.relocation_to(symbol);
            relocation.set_r_info(LE, false, index, kind);
            let place = relocation.r_offset.get(LE);
            (elf.save("retyped.so"), place)
        };
        let (path, place) = retyped("absolute_small", R_X86_64_COPY);
        let line = format!(
            "$SCRATCH/retyped.so: relocation R_X86_64_COPY at address {place:#x} (symbol absolute_small): expected one that \
             shared objects may have, found one that cannot be applied"
        );
        let help = "copy relocations are for executables; compile with -fPIC and link with -shared";
        says("UnsupportedRelocation", &refused(path), &line, Some(help));

        let (path, place) = retyped("absolute_small", RelocationType(200));
        let line = format!(
            "$SCRATCH/retyped.so: relocation type 200 at address {place:#x} (symbol absolute_small): expected one that \
             shared objects may have, found one that cannot be applied"
        );
        says("UnsupportedRelocation", &refused(path), &line, Some("compile all of its sources with -fPIC"));

        let (path, place) = retyped("target", R_X86_64_32);
        let error = refused(path);
        let soload::ErrorKind::RelocationOverflow { value, .. } = error.kind() else { panic!("{error}") };
        assert!(*value > u32::MAX.into());
        let line = format!(
            "$SCRATCH/retyped.so: relocation R_X86_64_32 at address {place:#x}: expected a value that fits 32 bits, found \
             {value:#x}"
        );
        says("RelocationOverflow", &error, &line, Some("compile all of its sources with -fPIC"));
    });
}

#[test]
fn what_is_refused_unless_it_is_allowed() {
    on_ours(|_| {
        let error = refused("writable_text");
        let soload::ErrorKind::WritableExecutable { header } = error.kind() else { panic!("{error}") };
        let line = format!(
            "$LIBS/libwritable_text.so: p_flags of program header {header}: expected a segment not both writable and \
             executable, found RWX"
        );
        let help = "relink without the option that merges segments (-N, --omagic), or allow it with \
                    OpenOptions::allow_writable_executable";
        says("WritableExecutable", &error, &line, Some(help));
        says(
            "ExecutableStack",
            &refused("executable_stack"),
            "$LIBS/libexecutable_stack.so: PT_GNU_STACK: expected a stack that is not executable, found a demand for an \
             executable one",
            Some("relink with -z noexecstack, or allow it with OpenOptions::allow_executable_stack"),
        );
    });
}

#[test]
fn what_the_system_refuses() {
    on_ours(|_| {
        // A part of the C library, by its soname, that needs what does not exist: only the host may load it.
        let mut part = Elf::of("soname/other_file_name.so");
        part.rename("libsoname_alias.so.1", "libBrokenLocale.so.1");
        part.rename("libc.so.6", "libX.so.6");
        says(
            "Host",
            &refused(part.save("part.so")),
            "$SCRATCH/part.so: the C library's own loader refused: libX.so.6: cannot open shared object file: No such file \
             or directory",
            None,
        );

        let mut huge = Elf::of("bss");
        let last = huge.segments(PT_LOAD).len() - 1;
        huge.segment(PT_LOAD, last).p_memsz.set(LE, 1 << 37);
        let huge = huge.save("huge.so");
        let error = with_address_space(4 << 30, || refused(&huge));
        let soload::ErrorKind::NoRoom { bytes, .. } = error.kind() else { panic!("{error}") };
        assert!(*bytes >= 1 << 37);
        says(
            "NoRoom",
            &error,
            &format!(
                "$SCRATCH/huge.so: address space: expected room for {bytes:#x} bytes, found none: Cannot allocate memory"
            ),
            Some("the process is out of memory, addresses (`ulimit -v`) or mappings (/proc/sys/vm/max_map_count)"),
        );

        let mut static_block = Elf::of("tls_initial");
        static_block.segment(PT_TLS, 0).p_memsz.set(LE, 1 << 20);
        says(
            "ThreadLocal",
            &refused(static_block.save("static_block.so")),
            "$SCRATCH/static_block.so: thread-local storage: expected 0x100000 bytes from the C library, which says: cannot \
             allocate memory in static TLS block",
            Some(
                "compile it without -ftls-model=initial-exec, or give the process more room from the start \
                 (GLIBC_TUNABLES=glibc.rtld.optional_static_tls=BYTES)",
            ),
        );

        // As on a file system that is mounted noexec.
        refuse_executable_mappings();
        says(
            "System",
            &refused("bss"),
            "$LIBS/libbss.so: mmap of a segment: Operation not permitted",
            Some("its file system is mounted noexec (`findmnt -T $LIBS/libbss.so`); move the file to another"),
        );
        // The same for code that is not where the file has it.
        says(
            "System",
            &refused("align_2m"),
            "$LIBS/libalign_2m.so: mmap of a segment: Operation not permitted",
            Some("its file system is mounted noexec (`findmnt -T $LIBS/libalign_2m.so`); move the file to another"),
        );
    });
}

/// The gABI's hash, by which versions are told apart.
fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

/// Root is refused nothing, so this thread becomes nobody.
fn stop_being_root() {
    if unsafe { libc::geteuid() } == 0 {
        // This thread alone: the C library would have all others do it too, and be in that when the process exits.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
    }
}

/// Runs `work` while the process may have no more than this many bytes of addresses.
fn with_address_space<T>(bytes: u64, work: impl FnOnce() -> T) -> T {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut before) }, 0);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: before.rlim_max };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    let result = work();
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &before) }, 0);
    result
}

/// From here on `mmap` of anything executable fails with `EPERM`, by a filter of system calls.
fn refuse_executable_mappings() {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, is, any_of) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JEQ, libc::BPF_JSET);
    let jump = |test: u32| libc::BPF_JMP | test | libc::BPF_K;
    // Offsets of `seccomp_data`: the number of the call, and the low half of its third argument, the protection.
    let filter = [
        statement(load, 0, 0, 32),
        statement(jump(any_of), 0, 5, libc::PROT_EXEC as u32),
        statement(load, 0, 0, 0),
        statement(jump(is), 0, 1, libc::SYS_mmap as u32),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(jump(is), 0, 1, libc::SYS_mprotect as u32),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}
