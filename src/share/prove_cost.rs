//! Experiments about what mapping costs beside reading: memory, time, addresses; and about what cannot be mapped.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::experiment::{Area, Companion, Writes, faults, terminal};
use super::prove::{Scratch, Seen, kib, page_size, present, status};

/// Enough to tell times apart, and small enough for any machine.
const LEN: usize = 256 << 20;

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Maps all of it, reads a byte of each page; time, faults, KiB of memory of its own, KiB of the file's.
fn by_mapping(file: &File, len: usize) -> io::Result<(Duration, u64, u64, u64)> {
    let (own, of_file, before) = (status("RssAnon")?, status("RssFile")?, faults().0);
    let start = Instant::now();
    let area = Area::map(file.as_fd(), len, Writes::Refused)?;
    black_box(area.touch(0..len, page_size()));
    let time = start.elapsed();
    let grown = |field, before: u64| status(field).map(|now| now.saturating_sub(before));
    Ok((time, faults().0 - before, grown("RssAnon", own)?, grown("RssFile", of_file)?))
}

pub(super) fn zero_copy(scratch: &Scratch) -> io::Result<Seen> {
    let file = scratch.file(LEN)?;
    by_mapping(&file, LEN)?; // so that the cache is warm for both
    let (mapping, its_faults, its_memory, of_file) = by_mapping(&file, LEN)?;
    let (own, before) = (status("RssAnon")?, faults().0);
    let start = Instant::now();
    let mut bytes = Vec::with_capacity(LEN);
    io::Seek::rewind(&mut &file)?;
    (&file).take(LEN as u64).read_to_end(&mut bytes)?;
    black_box(bytes.iter().step_by(page_size()).map(|byte| u64::from(*byte)).sum::<u64>());
    let reading = start.elapsed();
    let (read_faults, memory) = (faults().0 - before, status("RssAnon")?.saturating_sub(own));
    let measured = format!(
        "{} MiB: mapped {}, {its_faults} faults, +{its_memory} KiB own (+{of_file} KiB of the file's); read() {}, \
         {read_faults} faults, +{memory} KiB own; {:.1} times as long",
        LEN >> 20,
        milliseconds(mapping),
        milliseconds(reading),
        reading.as_secs_f64() / mapping.as_secs_f64()
    );
    Ok(Seen::whether(its_memory < 4096 && memory >= (LEN >> 10) as u64 * 9 / 10, measured))
}

pub(super) fn one_buffer(scratch: &Scratch) -> io::Result<Seen> {
    let file = scratch.file(LEN)?;
    by_mapping(&file, LEN)?;
    let mapping = by_mapping(&file, LEN)?.0;
    let mut buffer = vec![0; 256 << 10];
    let (own, start) = (status("RssAnon")?, Instant::now());
    let (mut at, mut sum) = (0, 0_u64);
    while at < LEN {
        file.read_exact_at(&mut buffer, at as u64)?;
        sum += buffer.iter().step_by(page_size()).map(|byte| u64::from(*byte)).sum::<u64>();
        at += buffer.len();
    }
    black_box(sum);
    let (reading, memory) = (start.elapsed(), status("RssAnon")?.saturating_sub(own));
    let factor = reading.as_secs_f64() / mapping.as_secs_f64();
    let measured = format!(
        "{} MiB in one pass: mapped {}, read() into one buffer of 256 KiB {} ({factor:.1} times), +{memory} KiB",
        LEN >> 20,
        milliseconds(mapping),
        milliseconds(reading)
    );
    // The claim is about memory: how long it takes depends on the size of the cache's pages, and is told, not judged.
    Ok(Seen::whether(memory < 4096, measured))
}

pub(super) fn large_file(scratch: &Scratch) -> io::Result<Seen> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(scratch.path("large"))?;
    let memory = kib("/proc/meminfo", "MemTotal")?;
    // Only as long as files there may be.
    let len = [memory << 11, memory << 10 | 1 << 30].into_iter().find(|len| file.set_len(*len).is_ok());
    let Some(len) = len else {
        return Ok(Seen::cannot("the file system has no files of that size", format!("memory: {} GiB", memory >> 20)));
    };
    let (size, resident) = (status("VmSize")?, status("VmRSS")?);
    let area = Area::map(file.as_fd(), len as usize, Writes::Refused)?;
    let last = area.read(len as usize - 1);
    let (more, used) = (status("VmSize")?.saturating_sub(size), status("VmRSS")?.saturating_sub(resident));
    let measured = format!(
        "{} GiB of memory, {} GiB mapped: VmSize +{more} KiB, VmRSS +{used} KiB after reading the last byte",
        memory >> 20,
        len >> 30
    );
    Ok(Seen::whether(more >= len >> 10 && used < 4096 && last == 0, measured))
}

pub(super) fn footprint(scratch: &Scratch) -> io::Result<Seen> {
    const SIZE: usize = 32 << 20;
    let file = scratch.file(SIZE)?;
    let area = Area::map(file.as_fd(), SIZE, Writes::Refused)?;
    black_box(area.touch(0..SIZE, page_size()));
    let (rss, alone) = resident(&area)?;
    let present = present(&area)?;
    let read = || Companion::start(|| (area.touch(0..SIZE, page_size()), ()), |()| 0);
    let others = (read()?, read()?, read()?);
    let (still, shared) = resident(&area)?;
    drop(others);
    let measured = format!(
        "32 MiB mapped, {present} pages touched: RSS {rss} KiB, PSS {alone} KiB; with three more processes RSS {still} KiB, \
         PSS {shared} KiB"
    );
    Ok(Seen::whether(rss >= (SIZE >> 10) as u64 && still >= rss && shared <= alone / 3, measured))
}

/// `Rss` and `Pss` of one mapping, in KiB.
fn resident(area: &Area) -> io::Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let head = format!("{:x}-", area.range().start.0);
    let mut fields = text.lines().skip_while(|line| !line.starts_with(&head));
    let mut field = |name: &str| {
        let value = fields.find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        value.ok_or_else(|| io::Error::other("smaps does not list the mapping"))
    };
    Ok((field("Rss:")?, field("Pss:")?))
}

pub(super) fn not_mappable(_: &Scratch) -> io::Result<Seen> {
    let (pipe, _other) = io::pipe()?;
    let (socket, _peer) = UnixStream::pair()?;
    let (directory, text) = (File::open("/")?, File::open("/proc/self/status")?);
    let terminal = terminal();
    let refused = |fd: BorrowedFd<'_>| Area::map(fd, page_size(), Writes::Refused).err()?.raw_os_error();
    let mut answers = vec![
        ("pipe", refused(pipe.as_fd())),
        ("Unix socket", refused(socket.as_fd())),
        ("directory", refused(directory.as_fd())),
        ("/proc text", refused(text.as_fd())),
    ];
    answers.extend(terminal.as_ref().map(|terminal| ("terminal", refused(terminal.as_fd()))));
    let holds = answers.iter().all(|(_, errno)| errno.is_some());
    let same = answers.iter().all(|(_, errno)| *errno == Some(libc::ENODEV));
    let names: Vec<_> = answers.iter().map(|(name, _)| *name).collect();
    let tcp = tcp().map(|(client, _server)| refused(client.as_fd()));
    let exception = match tcp {
        Ok(None) => "a TCP socket maps (zero-copy receive)".into(),
        Ok(Some(errno)) => format!("a TCP socket does not map here (error {errno})"),
        Err(error) => format!("no TCP here ({error})"),
    };
    let errors = if same { "ENODEV".to_owned() } else { format!("{:?}", answers) };
    Ok(Seen::whether(holds, format!("{}: {errors}; {exception}", names.join(", "))))
}

fn tcp() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((client, listener.accept()?.0))
}
