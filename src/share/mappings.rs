//! The mappings of a process, from `/proc/PID/maps`, and where among them an image is loaded.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::addr::{Addr, Bias, FileOffset, Protection};
use crate::error::ErrorKind;
use crate::file::image::Image;
use crate::file::plan::Plan;

/// One mapping of a process.
///
/// ```
/// let mappings = soload::Mapping::all_of(std::process::id())?;
/// let of_us = |mapping: &soload::Mapping| mapping.protection.execute && mapping.inode != 0;
/// assert!(mappings.iter().any(of_us));
/// # Ok::<(), soload::ErrorKind>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<Addr>,
    /// What may be done with it.
    pub protection: Protection,
    /// Whether writes go to the file and to all who have it mapped (`MAP_SHARED`).
    pub shared: bool,
    /// Where in the file it begins.
    pub offset: FileOffset,
    /// The device of its file, as `major << 32 | minor`.
    pub device: u64,
    /// The file's number there; 0 if no file is behind it.
    pub inode: u64,
    /// The file's path, or a name in brackets that the kernel gives, such as `[heap]`. Empty without one.
    pub path: PathBuf,
    /// Whether the file is not at that path any more.
    pub deleted: bool,
}

impl Mapping {
    /// All mappings of a process, in the order of their addresses.
    ///
    /// # Errors
    /// [`ErrorKind::System`]: `ENOENT` if there is no such process, `EACCES` if it is another user's.
    pub fn all_of(process: u32) -> Result<Vec<Self>, ErrorKind> {
        let system =
            |call| move |error: io::Error| ErrorKind::System { call, errno: error.raw_os_error().unwrap_or(0) };
        let file = File::open(format!("/proc/{process}/maps")).map_err(system("open of maps"))?;
        let lines = BufReader::new(file).split(b'\n');
        let parse = |line: io::Result<Vec<u8>>| line.map(|line| Self::parse(&line)).transpose();
        lines.filter_map(parse).collect::<io::Result<_>>().map_err(system("read of maps"))
    }

    /// A line of `maps`: `start-end rwxp offset major:minor inode   path` (`proc_pid_maps(5)`).
    fn parse(line: &[u8]) -> Option<Self> {
        // Six fields; the path is all that is left after the blanks, and may have blanks itself.
        let mut rest = line;
        let mut word = || {
            let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
            let (word, more) = rest.split_at(end);
            rest = more.trim_ascii_start();
            str::from_utf8(word).ok()
        };
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = word()?.split_once('-')?;
        let (flags, offset) = (word()?.as_bytes(), hex(word()?)?);
        let (major, minor) = word()?.split_once(':')?;
        let inode = word()?.parse().ok()?;
        let path = rest.strip_suffix(b" (deleted)").unwrap_or(rest);
        Some(Self {
            range: Addr(hex(start)? as usize)..Addr(hex(end)? as usize),
            protection: Protection {
                read: flags.first() == Some(&b'r'),
                write: flags.get(1) == Some(&b'w'),
                execute: flags.get(2) == Some(&b'x'),
            },
            shared: flags.get(3) == Some(&b's'),
            offset: FileOffset(offset),
            device: hex(major)? << 32 | hex(minor)?,
            inode,
            path: Path::new(OsStr::from_bytes(path)).to_owned(),
            deleted: path.len() < rest.len(),
        })
    }

    /// What has to be added to the addresses in `image` to give those in a process with these mappings; `None` if it is
    /// not loaded there as planned.
    ///
    /// ```
    /// # use soload::{Image, Mapping, PageSize, Plan};
    /// let image = Image::open("/proc/self/exe".as_ref())?;
    /// let plan = Plan::of(&image, PageSize::native())?;
    /// let mappings = Mapping::all_of(std::process::id()).unwrap();
    /// assert!(Mapping::bias_of(&mappings, &image, &plan).is_some());
    /// # Ok::<(), soload::Error>(())
    /// ```
    #[must_use]
    pub fn bias_of(mappings: &[Self], image: &Image, plan: &Plan) -> Option<Bias> {
        let first = plan.maps().iter().find(|map| map.file.is_some())?;
        let from = first.file?;
        let of_file: Vec<&Self> = mappings.iter().filter(|mapping| mapping.is_of(image)).collect();
        let biases = of_file.iter().filter(|mapping| mapping.offset <= from).map(|mapping| {
            let at = Addr(mapping.range.start.0.wrapping_add((from.0 - mapping.offset.0) as usize));
            Bias::between(at, first.range.start)
        });
        // A file that is also mapped as a whole, to be read, has only its first segment in place.
        // What is written may be memory of the process's own by now (see `Guard::Lease`), or of a snapshot.
        let constant = plan.maps().iter().any(|map| map.file.is_some() && !map.protection.write);
        let fits = |bias: &Bias| {
            let maps = plan.maps().iter().filter(|map| !(constant && map.protection.write));
            let mut places = maps.filter_map(|map| Some((bias.at(map.range.start), map.file?)));
            places.all(|(at, offset)| {
                let has = |mapping: &&Self| {
                    mapping.range.contains(&at)
                        && mapping.offset.0.checked_add((at.0 - mapping.range.start.0) as u64) == Some(offset.0)
                };
                of_file.iter().any(has)
            })
        };
        let executable = |bias: &Bias| {
            let code = plan.maps().iter().find(|map| map.protection.execute && map.file.is_some());
            code.is_none_or(|map| {
                let at = bias.at(map.range.start);
                of_file.iter().any(|mapping| mapping.range.contains(&at) && mapping.protection.execute)
            })
        };
        biases.filter(fits).find(executable)
    }

    /// Whether it is of the image's file. File systems in layers give maps another device than `stat`.
    fn is_of(&self, image: &Image) -> bool {
        let same_name =
            || self.path.file_name() == image.path().canonicalize().ok().as_deref().and_then(Path::file_name);
        let device = image.identity().device;
        let same_device = libc::major(device) as u64 == self.device >> 32
            && libc::minor(device) as u64 == self.device & u64::from(u32::MAX);
        self.inode == image.identity().inode && (same_device || same_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_as_the_kernel_writes_it() {
        let line = b"7f00-7f10 r-xs 0000a000 08:01 1234                       /tmp/a b.so (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.range, Addr(0x7f00)..Addr(0x7f10));
        assert_eq!((mapping.protection.to_string().as_str(), mapping.shared), ("r-x", true));
        assert_eq!((mapping.offset, mapping.device, mapping.inode), (FileOffset(0xa000), 8 << 32 | 1, 1234));
        assert_eq!((mapping.path.as_path(), mapping.deleted), (Path::new("/tmp/a b.so"), true));

        let anonymous = Mapping::parse(b"1000-2000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.inode, anonymous.path.as_os_str().len(), anonymous.deleted), (0, 0, false));
        for damaged in [&b""[..], b"1000", b"1000-2000 rw-p", b"x-y rw-p 0 0:0 0", b"1-2 r--p 0 0:0 x"] {
            assert_eq!(Mapping::parse(damaged), None);
        }
    }

    #[test]
    fn a_process_that_is_not_there_has_no_mappings() {
        let error = Mapping::all_of(u32::MAX).unwrap_err();
        assert!(matches!(error, ErrorKind::System { errno: libc::ENOENT, .. }), "{error:?}");
    }

    #[test]
    fn a_file_that_is_only_mapped_to_be_read_is_not_loaded() {
        let path = Path::new(env!("SOLOAD_TEST_LIBS")).join("libdemo.so");
        let image = Image::open(&path).unwrap(); // maps the whole file
        let plan = Plan::of(&image, crate::addr::PageSize::new(4096).unwrap()).unwrap();
        let mappings = Mapping::all_of(std::process::id()).unwrap();
        assert!(mappings.iter().any(|mapping| mapping.is_of(&image)));
        assert_eq!(Mapping::bias_of(&mappings, &image, &plan), None);
    }
}
