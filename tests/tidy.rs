//! The rules of this house, as tests: what breaks one is named by file and line, with what to do about it.
//!
//! Each rule is a function from all files to complaints, so that the last test can show every rule a file that breaks it.

use std::fs;
use std::path::Path;

/// Which modules each part of `src/` may name. A part is a folder, a file, or a file of a folder that is stricter than
/// the rest of it. A library travels from the top of this table to the bottom; imports point up.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("addr", &[]),
    ("error", &["addr", "help"]),
    ("help", &["addr", "error"]),
    ("sys", &["addr", "error"]),
    ("guard", &["addr", "error", "sys"]),
    ("arch", &["addr"]),
    // Arithmetic: whoever plans changes nothing, so that a plan can be made and shown for any file of any machine.
    ("file/plan", &["addr", "error"]),
    ("file", &["addr", "error", "sys", "arch"]),
    ("find", &["addr", "error", "sys", "guard", "arch", "file"]),
    ("load", &["addr", "error", "sys", "arch", "file", "find"]),
    // What `soload ldd` says is what the search and the binding of the loader decide, begun as for a program.
    ("closure", &["addr", "error", "sys", "arch", "file", "find", "load"]),
    ("process", &["addr", "error", "sys", "guard", "arch", "file", "find", "load"]),
    ("share", &["addr", "error", "sys", "arch", "file", "load"]),
    // A server knows nothing of libraries: it forks, and whoever has opened some finds them in the fork.
    ("serve", &["addr", "error", "sys"]),
    // A snapshot knows nothing of what it is made of: numbers, names and pages.
    ("snapshot", &["addr", "error", "sys", "arch"]),
    // The stages and the driver above them share what goes in (`Wishes`) and what comes out (`Opened`).
    ("stages", &["addr", "error", "sys", "guard", "arch", "file", "find", "load", "process", "snapshot", "loader"]),
    ("loader", &["addr", "error", "sys", "guard", "arch", "file", "find", "load", "process", "snapshot", "stages"]),
    ("export", &["addr", "error", "file"]),
    // A symbol borrows the library that gave it: two files, one layer.
    ("symbol", &["addr", "error", "library"]),
    ("options", &["addr", "error", "guard", "process", "loader", "library", "dl"]),
    (
        "library",
        &["addr", "error", "guard", "file", "find", "load", "process", "loader", "export", "symbol", "options", "dl"],
    ),
    // What is asked for and answered by the handle, as far as it is about shared pages.
    ("sharing", &["addr", "error", "dl", "library", "options", "loader", "snapshot", "stages"]),
    // What code of a library gets as `dlopen` opens like `Library` does; `Library` says that it shall get it.
    ("dl", &["addr", "error", "file", "process", "loader", "library"]),
    // The command is a user of the library: whatever it needs is public.
    ("cli", &["cli"]),
    ("main", &["cli"]),
];

/// The only files that hold unsafe code, and what each one owns. `ARCHITECTURE.md` says who guarantees what.
const MAY_BE_UNSAFE: &[(&str, &str)] = &[
    ("src/sys.rs", "files, opened, read and mapped wherever the kernel likes"),
    ("src/sys/room.rs", "every mapping at an address of soload's choice"),
    ("src/sys/own.rs", "what the kernel tells the process about itself, and gives it"),
    ("src/sys/socket.rs", "descriptors that come over a socket"),
    ("src/sys/fork.rs", "forks of the process"),
    ("src/guard.rs", "the pages that are made private when a file is about to be overwritten"),
    ("src/arch/native.rs", "the machine's own instructions"),
    ("src/arch/trampoline.rs", "the way of a function's first call"),
    ("src/load/map.rs", "the memory that is being relocated"),
    ("src/load/call.rs", "the convention by which foreign code is called"),
    ("src/process/current.rs", "values that are read without a lock"),
    ("src/process/host.rs", "what is read of the C library's objects"),
    ("src/process/loaded.rs", "the tables of its objects in memory"),
    ("src/process/real.rs", "the C library's own functions, found in its tables"),
    ("src/process/storage.rs", "the object by which glibc provides thread-local storage"),
    ("src/process/reserve.rs", "room in every thread's static storage"),
    ("src/process/lazy.rs", "what the trampoline calls"),
    ("src/process/hooks.rs", "the process's start, fork and exit, and when foreign code runs"),
    ("src/process/imports.rs", "the functions that libraries get in place of the C library's"),
    ("src/process/unwind.rs", "what the unwinder is told, and the slot by which it asks"),
    ("src/process/debugger.rs", "what the debugger reads, and a breakpoint of its"),
    ("src/stages/seal.rs", "handing mapped frames to the unwinder"),
    ("src/share/experiment.rs", "the mappings and second processes that `soload prove` tries things with"),
    ("src/share/scan.rs", "the buffer that the kernel tells of pages in"),
    ("src/library.rs", "the promises of whoever opens and asks"),
    ("src/options.rs", "the promise of whoever opens"),
    ("src/symbol.rs", "an address that the caller has given a type"),
    ("src/dl/", "what foreign code passes to the functions of <dlfcn.h>"),
    ("src/cli/", "the promise to run a library's code, which whoever types the command gives"),
];

/// Names that stand in one place only.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("goblin", &["src/file/elf.rs"], "turn it into a value of our own there"),
    (
        "nix",
        &["src/sys.rs", "src/sys/", "src/process/storage.rs", "src/snapshot/", "src/serve/", "src/cli/"],
        "give the call a type in src/sys.rs",
    ),
    ("blake3", &["src/snapshot/"], "hash there, so that a build without snapshots needs no hash"),
    ("libffi", &["src/cli/"], "only the command calls functions whose type it learns at run time"),
];

/// What nothing that is pure may name: the system.
const SYSTEM: &[&str] = &["libc", "nix", "fs", "env", "process", "net", "thread", "unsafe"];

const LINES_MAX: usize = 500;

const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore", "should_panic"];

#[test]
fn imports_point_up_the_table() {
    check(imports);
}

#[test]
fn planning_is_pure() {
    check(pure);
}

#[test]
fn names_with_a_place_of_their_own_stand_nowhere_else() {
    check(only_in);
}

#[test]
fn unsafe_code_stands_where_the_table_allows_it_and_says_why_it_is_sound() {
    check(unsafe_code);
}

#[test]
fn files_are_short_enough_to_be_read() {
    check(length);
}

#[test]
fn files_begin_with_one_sentence() {
    check(heads);
}

#[test]
fn fixtures_begin_with_the_sentence_they_test() {
    check(fixtures);
}

#[test]
fn nothing_is_left_for_later() {
    check(unfinished);
}

#[test]
fn the_library_exports_no_c_names() {
    check(c_names);
}

#[test]
fn paths_in_markdown_exist() {
    check(markdown_paths);
}

#[test]
fn rust_in_markdown_is_part_of_an_example() {
    check(markdown_code);
}

#[test]
fn the_architecture_names_every_file() {
    check(architecture);
}

#[test]
fn every_error_has_its_text_in_a_test() {
    check(error_rows);
}

fn imports(tree: &Tree) -> Vec<String> {
    let exports = tree.root_exports();
    let mut complaints = Vec::new();
    for file in tree.sources() {
        let path = file.module();
        let parts = path.split('/').next().unwrap_or_default();
        if path == "lib" {
            continue;
        }
        let Some((part, allowed)) = MAY_NAME.iter().find(|(part, _)| *part == path || *part == parts) else {
            complaints.push(format!("{}: no row in MAY_NAME of tests/tidy.rs; say what it may name", file.path));
            continue;
        };
        for (line, code) in file.product().lines().enumerate() {
            let mut wrong = |what: &str| complaints.push(format!("{}:{}: {what}", file.path, line + 1));
            if code.contains("super::super") || code.contains("crate::{") {
                wrong("name other parts by `use crate::part::…`, one line for each, so that the direction shows");
                continue;
            }
            for name in crate_names(code) {
                let module = exports.iter().find(|(item, _)| *item == name).map_or(name, |(_, module)| module);
                if module != parts && !allowed.contains(&module) {
                    wrong(&format!(
                        "names crate::{name}; `{part}` may name {allowed:?} only. Move the code down the table, or hand it a value"
                    ));
                }
            }
        }
    }
    complaints
}

fn pure(tree: &Tree) -> Vec<String> {
    let plan = tree.sources().filter(|file| file.path == "src/file/plan.rs");
    plan.flat_map(|file| {
        file.lines_with(&file.product(), |code| SYSTEM.iter().any(|name| has_word(code, name)))
            .map(|place| format!("{place}: plan is pure; move what touches the system to src/load/map.rs"))
            .collect::<Vec<_>>()
    })
    .collect()
}

fn only_in(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, places, instead) in ONLY_IN {
        for file in tree.sources().filter(|file| !places.iter().any(|place| file.path.starts_with(place))) {
            let product = file.product();
            let named = file.lines_with(&product, |code| has_word(code, name));
            complaints.extend(named.map(|place| format!("{place}: {name} is named only in {places:?}; {instead}")));
        }
    }
    // goblin's own front door is a file dumper: it reads section headers, which loading must not depend on.
    for file in tree.sources() {
        let called = file.lines_with(&file.code, |code| code.contains("Elf::parse("));
        complaints.extend(called.map(|place| format!("{place}: Elf::parse; use Elf::parse_header and our own tables")));
    }
    complaints
}

fn unsafe_code(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.sources() {
        let product = file.product();
        if !MAY_BE_UNSAFE.iter().any(|(place, _)| file.path.starts_with(place)) {
            let first = file.lines_with(&product, |code| has_word(code, "unsafe")).next();
            complaints.extend(first.map(|place| {
                format!("{place}: unsafe; move it behind a safe function of a file that MAY_BE_UNSAFE of tests/tidy.rs lists")
            }));
        }
        let text: Vec<&str> = file.text.lines().collect();
        for (index, code) in product.lines().enumerate() {
            let opens = code.contains("unsafe {") || code.contains("unsafe impl");
            // The note stands above the block, or above the statement that the block is the end of.
            let near = &text[index.saturating_sub(8)..=index];
            if opens && !near.iter().any(|line| line.contains("SAFETY:")) {
                complaints.push(format!(
                    "{}:{}: say above it in a SAFETY note who guarantees what",
                    file.path,
                    index + 1
                ));
            }
        }
    }
    complaints
}

fn length(tree: &Tree) -> Vec<String> {
    let long = tree.sources().map(|file| (file, file.product().lines().count()));
    long.filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| {
            format!("{}: {lines} lines without tests; at {LINES_MAX} it tells more than one thing: split it", file.path)
        })
        .collect()
}

fn heads(tree: &Tree) -> Vec<String> {
    let ours = tree.files.iter().filter(|file| file.path.ends_with(".rs"));
    ours.filter(|file| {
        let head = file.text.lines().map_while(|line| line.strip_prefix("//! "));
        let head = head.collect::<Vec<_>>().join(" ");
        // A sentence ends with a full stop, and a second one would begin with a capital or with code.
        let more = head.split(". ").skip(1).any(|next| next.starts_with(|c: char| c.is_uppercase() || c == '`'));
        !head.ends_with('.') || more
    })
    .map(|file| {
        format!(
            "{}: begin with `//! ` and one sentence that says what the file is; more after an empty line",
            file.path
        )
    })
    .collect()
}

fn fixtures(tree: &Tree) -> Vec<String> {
    let fixtures = tree.files.iter().filter(|file| file.path.starts_with("test-libs/"));
    fixtures
        .filter(|file| {
            let is_directive = |line: &&str| line.split_once(": ").is_some_and(|(word, _)| !word.contains(' '));
            // The linker's scripts have comments of one kind only.
            fn text(line: &str) -> Option<&str> {
                line.strip_prefix("// ").or_else(|| line.strip_prefix("/* ")?.strip_suffix(" */"))
            }
            let comment = file.text.lines().map_while(text);
            let sentence = comment.take_while(|line| !is_directive(line)).collect::<Vec<_>>().join(" ");
            !sentence.ends_with(['.', ':'])
        })
        .map(|file| format!("{}: begin with a comment, one sentence: what must happen", file.path))
        .collect()
}

fn unfinished(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs")) {
        let found = file.lines_with(&file.code, |code| UNFINISHED.iter().any(|word| code.contains(word)));
        complaints.extend(found.map(|place| format!("{place}: finish it, or leave it out and open an issue")));
        let postponed = file.lines_with(&file.text, |line| {
            // What a doc-test does not run, it does not test.
            let comment = line.trim_start().starts_with("//");
            comment && (has_word(line, "TODO") || has_word(line, "FIXME") || line.contains("```ignore"))
        });
        complaints.extend(postponed.map(|place| format!("{place}: do it now, or open an issue")));
    }
    complaints
}

fn c_names(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.sources() {
        let found = file.lines_with(&file.code, |code| has_word(code, "no_mangle") || has_word(code, "export_name"));
        complaints.extend(found.map(|place| {
            format!("{place}: the library lives beside the C library and exports no C name; pass the address instead")
        }));
    }
    complaints
}

fn markdown_paths(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, text) in file.prose() {
            for span in text.split('`').skip(1).step_by(2).chain(links(text)) {
                let path = span.trim_end_matches('/');
                let is_path = path.contains('/') && TOP.iter().any(|top| path.starts_with(top));
                let is_file = [".rs", ".md", ".toml", ".c", ".cpp"].iter().any(|end| path.ends_with(end));
                if !(is_path || is_file) || path.contains([' ', '*', '<', '$', '{']) {
                    continue;
                }
                let exists = |file: &File| {
                    let rest = file.path.strip_prefix(path);
                    let tail = file.path.strip_suffix(path);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        || tail.is_some_and(|tail| tail.is_empty() || tail.ends_with('/'))
                };
                if !tree.files.iter().any(exists) {
                    complaints.push(format!("{}:{line}: there is no {path}; name it as it is called now", file.path));
                }
            }
        }
    }
    complaints
}

fn markdown_code(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for block in file.text.split("```rust\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            let examples = tree.files.iter().filter(|file| file.path.starts_with("examples/"));
            if !examples.into_iter().any(|example| example.text.contains(block)) {
                complaints.push(format!(
                    "{}: a block of Rust that no compiler sees; copy it from a file of examples/",
                    file.path
                ));
            }
        }
    }
    complaints
}

fn architecture(tree: &Tree) -> Vec<String> {
    let Some(text) = tree.files.iter().find(|file| file.path == "ARCHITECTURE.md") else {
        return vec!["ARCHITECTURE.md: there is none; say there what each file is for".into()];
    };
    let named = |path: &str| text.text.contains(&format!("`{path}`"));
    let without_row = tree.sources().filter(|file| {
        // Machines are rows of one kind; the command's files say by their names which subcommand they are.
        let alike = ["src/arch/", "src/cli/"].iter().any(|folder| file.path.starts_with(folder));
        !alike && !named(file.path.trim_start_matches("src/"))
    });
    let mut complaints: Vec<String> = without_row
        .map(|file| format!("ARCHITECTURE.md: no row for {}; say in a sentence what it is for", file.path))
        .collect();
    for (place, owns) in MAY_BE_UNSAFE {
        if tree.files.iter().any(|file| file.path.starts_with(place)) && !named(place.trim_start_matches("src/")) {
            complaints.push(format!("ARCHITECTURE.md: say what {place} guarantees: it owns {owns}"));
        }
    }
    complaints
}

fn error_rows(tree: &Tree) -> Vec<String> {
    let text = |path: &str| tree.files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let body = text("src/error.rs").split("pub enum ErrorKind {").nth(1).unwrap_or_default();
    let variants = body.lines().take_while(|line| *line != "}").filter_map(|line| {
        let name = line.strip_prefix("    ")?.split([' ', ',', '(']).next()?;
        name.starts_with(|c: char| c.is_ascii_uppercase()).then_some(name)
    });
    let rows = text("tests/errors.rs");
    let missing: Vec<&str> = variants.filter(|name| !rows.contains(&format!("\"{name}\""))).collect();
    missing
        .iter()
        .map(|name| format!("tests/errors.rs: no row for ErrorKind::{name}; cause it and write its exact text"))
        .collect()
}

/// Folders that a path in a document starts with.
const TOP: &[&str] = &["src/", "tests/", "test-libs/", "benches/", "examples/", "fuzz/", "preload/", "docs/", ".ci/"];

struct Tree {
    files: Vec<File>,
}

struct File {
    /// From the top of the project.
    path: String,
    text: String,
    /// The text with comments and what stands in quotes blanked out, line by line.
    code: String,
}

impl Tree {
    fn of_the_project() -> Self {
        let mut tree = Self { files: Vec::new() };
        tree.add(Path::new(env!("CARGO_MANIFEST_DIR")), "");
        tree
    }

    fn add(&mut self, folder: &Path, prefix: &str) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{prefix}{name}");
            let hidden = name.starts_with('.') && name != ".ci";
            if entry.file_type().unwrap().is_dir() {
                if !hidden && name != "target" {
                    self.add(&entry.path(), &format!("{path}/"));
                }
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                self.files.push(File::new(path, text));
            }
        }
    }

    /// The code of the library and of the command.
    fn sources(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.starts_with("src/") && file.path.ends_with(".rs"))
    }

    /// What `lib.rs` exports at the root, and the module it comes from: `crate::Error` is `error`.
    fn root_exports(&self) -> Vec<(&str, &str)> {
        let Some(lib) = self.files.iter().find(|file| file.path == "src/lib.rs") else { return Vec::new() };
        let lines = lib.code.lines().filter_map(|line| line.strip_prefix("pub use ")?.split_once("::"));
        lines
            .flat_map(|(module, items)| {
                let items = items.rsplit("::").next().unwrap_or_default().trim_matches(['{', '}', ';']);
                items.split(", ").map(move |item| (item.trim_matches(['{', '}', ';']), module))
            })
            .collect()
    }
}

impl File {
    fn new(path: String, text: String) -> Self {
        let code = if path.ends_with(".rs") { code_of(&text) } else { String::new() };
        Self { path, text, code }
    }

    /// `load/map` of `src/load/map.rs`, `load` of `src/load/mod.rs`.
    fn module(&self) -> &str {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        path.strip_suffix("/mod").unwrap_or(path)
    }

    /// The code without the unit tests at its end.
    fn product(&self) -> String {
        let lines: Vec<&str> = self.code.lines().collect();
        let is_tests = |at: &usize| {
            let mut below = lines[*at..].iter().skip_while(|line| line.starts_with("#["));
            lines[*at] == "#[cfg(test)]" && below.next().is_some_and(|line| line.ends_with("mod tests {"))
        };
        let end = (0..lines.len()).find(is_tests).unwrap_or(lines.len());
        lines[..end].iter().flat_map(|line| [line, "\n"]).collect()
    }

    /// The places, as `path:line`, of the lines of `text` for which `is_wrong` holds.
    fn lines_with<'a>(
        &'a self,
        text: &'a str,
        is_wrong: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        let numbered = text.lines().enumerate().filter(move |(_, line)| is_wrong(line));
        numbered.map(|(index, _)| format!("{}:{}", self.path, index + 1))
    }

    /// The numbered lines of a document outside of its blocks of output and code.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut fenced = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            (!fenced && !fence).then_some((index + 1, line))
        })
    }
}

/// The targets of a line's links to files of the project.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).filter(|target| !target.contains("://"))
}

/// What a line names right after `crate::`.
fn crate_names(code: &str) -> impl Iterator<Item = &str> {
    let paths = code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with(is_word));
    paths.map(|(at, prefix)| {
        let rest = &code[at + prefix.len()..];
        &rest[..rest.len() - rest.trim_start_matches(is_word).len()]
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word))
}

/// Rust text with comments, strings and characters blanked out; lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = literal_len(rest, code.chars().next_back());
        if skip == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..skip].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skip..];
        }
    }
    code
}

/// The bytes of the comment or literal that `text` begins with; 0 if it begins with neither.
fn literal_len(text: &str, before: Option<char>) -> usize {
    let through = |from: usize, end: &str| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return through(2, "*/");
    }
    let raw = text.strip_prefix("br").or(text.strip_prefix('r')).filter(|_| !before.is_some_and(is_word));
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            return through(text.len() - raw.len() + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    let quoted = |quote: char| {
        let mut chars = text.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => drop(chars.next()),
                c if c == quote => return at + 1,
                _ => {}
            }
        }
        text.len()
    };
    match text.chars().next() {
        Some('"') => quoted('"'),
        // A lifetime has no second quote: 'a, but 'a' and '\n'.
        Some('\'') if text[1..].starts_with('\\') || text.chars().nth(2) == Some('\'') => quoted('\''),
        _ => 0,
    }
}

#[track_caller]
fn check(rule: fn(&Tree) -> Vec<String>) {
    let complaints = rule(&Tree::of_the_project());
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What is in quotes or comments is not code, and what follows it is again.
#[test]
fn code_is_told_from_comments_and_literals() {
    let text = "a /* unsafe */ b // unsafe\n'\"' c 'x' \"un\\\"safe\" d r#\"unsafe \"# e &'static f b'\\'' g";
    let code = code_of(text);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "&'static", "f", "b", "g"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

/// A rule that nothing can break is no rule: each of these files breaks one, in one way.
#[test]
fn every_rule_notices_what_breaks_it() {
    type Rule = fn(&Tree) -> Vec<String>;
    let lib = ("src/lib.rs", "//! A library.\npub use process::registry::Reason;\npub use error::{At, Error};\n");
    let long = "fn f() {}\n".repeat(LINES_MAX + 1);
    let broken: &[(Rule, &str, &str)] = &[
        (imports, "src/file/image.rs", "use crate::load::map::Mapping;"),
        (imports, "src/file/image.rs", "fn f(reason: crate::Reason) {}"),
        (imports, "src/file/plan.rs", "use crate::sys;"),
        (imports, "src/file/image.rs", "use crate::{addr::Addr, process::hooks};"),
        (imports, "src/find/mod.rs", "use super::super::load;"),
        (imports, "src/manager.rs", "//! A new part."),
        (pure, "src/file/plan.rs", "let size = std::fs::metadata(path);"),
        (only_in, "src/load/map.rs", "use goblin::elf::Elf;"),
        (only_in, "src/find/mod.rs", "nix::unistd::getpid();"),
        (only_in, "src/file/elf.rs", "let elf = Elf::parse(bytes);"),
        (unsafe_code, "src/find/mod.rs", "// SAFETY: none.\nunsafe { f() }"),
        (unsafe_code, "src/sys.rs", "unsafe { f() }"),
        (length, "src/sys.rs", &long),
        (heads, "src/sys.rs", "use std::fs;"),
        (heads, "src/sys.rs", "//! Calls. Also maps."),
        (heads, "tests/sys.rs", "//! no end"),
        (fixtures, "test-libs/x.c", "int x;"),
        (fixtures, "test-libs/x.c", "// needs: y"),
        (unfinished, "src/sys.rs", "todo!()"),
        (unfinished, "tests/sys.rs", "#[ignore = \"slow\"]"),
        (unfinished, "src/sys.rs", "// TODO: close it"),
        (c_names, "src/sys.rs", "#[unsafe(no_mangle)]\nextern \"C\" fn dlopen() {}"),
        (markdown_paths, "README.md", "See `src/gone.rs`."),
        (markdown_paths, "README.md", "See [there](GONE.md)."),
        (markdown_code, "README.md", "```rust\nlet x = 1;\n```\n"),
        (architecture, "src/new.rs", "//! New."),
        (error_rows, "src/error.rs", "pub enum ErrorKind {\n    /// New.\n    Gone,\n}"),
    ];
    for (rule, path, text) in broken {
        let files = [lib, (*path, *text), ("ARCHITECTURE.md", "`lib.rs`"), ("tests/errors.rs", "//! Rows.")];
        let files = files.map(|(path, text)| File::new(path.to_owned(), text.to_owned()));
        let tree = Tree { files: files.into() };
        assert_eq!(rule(&tree).len(), 1, "{path}: {text:.80}: {:#?}", rule(&tree));
    }
}
