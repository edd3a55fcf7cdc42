//! `soload inspect`: what an ELF file of any machine says to a loader, and what a loader will do with it.

mod facts;
mod json;
mod text;

use std::io::Write;
use std::path::PathBuf;

use soload::PageSize;

use super::{Outcome, Status, print};
use facts::Facts;

/// Show what ELF files of any machine say to a loader, and what a loader does with them
///
/// Header, mapping plan with the protections before and after RELRO, relocations by kind, pages that relocation makes
/// private, dependencies, versions, hardening. Nothing of the file is executed.
#[derive(clap::Args)]
pub(super) struct Args {
    /// ELF files: shared objects, programs, relocatable objects, core files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Plan for pages of SIZE bytes (such as 4096, 16K, 0x10000); without this, for this machine's page size if the
    /// file's machine has it, else for the smallest one it has
    #[arg(long, value_name = "SIZE", value_parser = page_size)]
    page_size: Option<PageSize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The page size that was typed.
fn page_size(text: &str) -> Result<PageSize, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").unwrap_or(&lower);
    let (digits, unit) = match (lower.strip_suffix('k'), lower.strip_suffix('m')) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => (lower, 1),
    };
    let number = match digits.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => digits.parse(),
    };
    let bytes = number.ok().and_then(|number| number.checked_mul(unit));
    // Smaller and larger pages exist on no machine that runs Linux.
    let sensible = bytes.filter(|bytes| (1 << 10..=1 << 30).contains(bytes)).and_then(PageSize::new);
    sensible.ok_or_else(|| "expected a power of two from 1K to 1024M".into())
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Outcome {
    let mut status = Status::Done;
    let mut documents = Vec::new();
    for (number, path) in args.files.iter().enumerate() {
        let facts = Facts::gather(path, args.page_size);
        if !facts.errors.is_empty() {
            status = Status::Failed;
        }
        if args.json {
            documents.push(json::of(&facts));
            continue;
        }
        if number > 0 {
            writeln!(out)?;
        }
        text::write(out, &facts)?;
        // In the order of what happened, if both go to the same terminal.
        out.flush()?;
        facts.errors.iter().for_each(print::complain_of);
    }
    if args.json {
        print::write_json(out, &json::document(documents))?;
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_may_have_units() {
        let of = |text| page_size(text).map(PageSize::bytes);
        assert_eq!([of("4096"), of("4k"), of("4KiB"), of("0x1000")], [const { Ok(4096) }; 4]);
        assert_eq!(of("2M"), Ok(2 << 20));
        for wrong in ["", "0", "5000", "512", "4G", "K", "-4096", "18446744073709551615K"] {
            assert!(page_size(wrong).is_err(), "{wrong}");
        }
    }
}
