//! `soload forecast --snapshots`: what of a library and all it needs a snapshot shares, and what it leaves to each process.
//!
//! JSON: `bytes` (of the snapshot), `written` (pages of all together), `memory` (bytes that so many processes need, each
//! `alone` and with the `snapshot`: private pages for each, all others once) and `libraries`: for each that it has pages of
//! `path`, `private` (without snapshot), `image` (pages in the snapshot), `written` (of these, by each process), `relro` (of
//! these), `words`, and `by_cause` (`pages` and `words` of each).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use comfy_table::Cell;
use serde_json::{Map, Value, json};
use soload::{Error, Fixup, Image, PageSize, Plan, Remaining};

use super::{Foretold, Sum};
use crate::cli::print::{self, BOLD, DIM, Size, plural};
use crate::cli::{Loading, memory};

pub(super) struct Shared {
    libraries: Vec<Library>,
    /// Of the snapshot.
    bytes: u64,
}

struct Library {
    path: PathBuf,
    /// Without a snapshot.
    alone: Sum,
    remaining: Remaining,
    /// Pages of its file that those in the snapshot stand for.
    replaced: u64,
    /// Written pages that are read-only afterwards.
    relro: u64,
}

impl Library {
    fn read(path: &Path, remaining: Remaining) -> Result<Self, Error> {
        let image = Image::open(path)?;
        let plan = Plan::of(&image, PageSize::native())?;
        let of_file = plan.maps().iter().filter(|map| map.protection.write && map.file.is_some());
        let replaced = of_file.map(|map| (map.range.end.0 - map.range.start.0) / plan.page.bytes()).sum();
        let relro = plan.relro.map_or(0, |relro| remaining.written.range(relro).count() as u64);
        Ok(Self { path: path.into(), alone: Foretold::read(path)?.sum(), remaining, replaced, relro })
    }

    fn written(&self) -> u64 {
        self.remaining.written.len() as u64
    }
}

impl Shared {
    /// Makes the snapshot of what loading `name` would bring, and asks it.
    pub(super) fn of(name: &OsStr, loading: &Loading) -> Result<Self, Error> {
        let snapshot = loading.options().create_snapshot(name)?;
        let paths = snapshot.libraries();
        let known = paths.iter().filter_map(|path| Some((path, snapshot.remaining(path)?)));
        let libraries = known.map(|(path, remaining)| Library::read(path, remaining)).collect::<Result<_, _>>()?;
        Ok(Self { libraries, bytes: snapshot.bytes() })
    }

    fn written(&self) -> u64 {
        self.libraries.iter().map(Library::written).sum()
    }

    /// Bytes that so many processes need at most, without the snapshot and with it.
    fn memory(&self, processes: u64) -> [u64; 2] {
        let page = PageSize::native().bytes();
        let alone = self.libraries.iter().map(|library| library.alone).fold(Sum::default(), Sum::add);
        let replaced: u64 = self.libraries.iter().map(|library| library.replaced).sum();
        let own = self.written().saturating_mul(processes);
        let with =
            (alone.file.saturating_sub(replaced)).saturating_add(own).saturating_mul(page).saturating_add(self.bytes);
        [alone.for_processes(processes).saturating_mul(page), with]
    }

    pub(super) fn json(&self, processes: u64) -> Value {
        let libraries = self.libraries.iter().map(|library| {
            let remaining = &library.remaining;
            let causes = Fixup::ALL.map(|why| {
                let counts = json!({"pages": remaining.count_by(why), "words": remaining.words_by(why)});
                (why.name().to_owned(), counts)
            });
            let mut object = Map::new();
            print::put_path(&mut object, "path", &library.path);
            for (name, number) in [
                ("private", library.alone.private),
                ("image", remaining.pages),
                ("written", library.written()),
                ("relro", library.relro),
                ("words", remaining.words()),
            ] {
                object.insert(name.into(), number.into());
            }
            object.insert("by_cause".into(), causes.into_iter().collect::<Map<_, _>>().into());
            Value::from(object)
        });
        let [alone, snapshot] = self.memory(processes);
        json!({
            "bytes": self.bytes,
            "written": self.written(),
            "memory": {"alone": alone, "snapshot": snapshot},
            "libraries": libraries.collect::<Vec<_>>(),
        })
    }

    pub(super) fn write(&self, out: &mut impl Write, processes: u64) -> io::Result<()> {
        writeln!(out, "{BOLD}With a snapshot{BOLD:#} of {}\n", plural(self.libraries.len(), "object"))?;
        let causes = Fixup::ALL.map(Fixup::name);
        let header: Vec<_> =
            ["library", "private", "image", "written", "RELRO", "words"].into_iter().chain(causes).collect();
        let mut table = print::table(&header);
        for library in &self.libraries {
            let remaining = &library.remaining;
            let numbers = [library.alone.private, remaining.pages, library.written(), library.relro, remaining.words()];
            let by_cause = Fixup::ALL.map(|why| remaining.count_by(why) as u64);
            let name = print::path(library.path.file_name().unwrap_or_default().as_ref());
            let numbers = numbers.into_iter().chain(by_cause).map(|number| memory::number_cell(number as usize));
            table.add_row([Cell::new(name)].into_iter().chain(numbers));
        }
        print::align_right(&mut table, 1..header.len());
        print::write_table(out, &table)?;
        writeln!(
            out,
            "\n  {DIM}private: pages without a snapshot; image: those in it; written: of these, by each process,\n  \
             for words about the host, the loader, answers of resolvers, and TLS (pages of each).{DIM:#}"
        )?;
        let page = PageSize::native().bytes();
        let private: u64 = self.libraries.iter().map(|library| library.alone.private).sum();
        writeln!(
            out,
            "\n  Each process writes {} instead of {private}: {} and not {}.\n  The snapshot takes {}, once for all.",
            plural(self.written() as usize, "page"),
            Size(self.written() * page),
            Size(private * page),
            Size(self.bytes),
        )?;
        if processes > 1 {
            let [alone, snapshot] = self.memory(processes).map(Size);
            writeln!(
                out,
                "  {processes} processes need at most {alone} without it, {BOLD}{snapshot}{BOLD:#} with it."
            )?;
        }
        writeln!(out)
    }
}
