//! A reserve of static thread-local storage, for libraries that need more of it than glibc has left.
//!
//! Code compiled for the initial-exec model finds its variables at one offset from the thread pointer, the same in all
//! threads. glibc keeps some 1.5 KiB of such room for libraries opened later and then refuses ("cannot allocate memory
//! in static TLS block"). This crate brings a block of its own, which is part of the program's storage and so lies at
//! one offset in every thread, those to come included: they start with the program's initial image, which is changed here.
//!
//! What nobody has had yet of it is zero in every thread. A small block that starts as zeroes is found there at once, whatever
//! code it is for, and nothing need be asked of glibc. That goes once: what a library has left is not zero any more. Where
//! there is one thread only, a small block with an image is there nearly as soon: in a page of the initial image that has
//! nothing but the reserve, and that stays writable from the first of them on.
//!
//! # Safety
//! System calls that read where a thread keeps a list, and for how long it has run. All writing to other threads' storage
//! goes through `/proc/self/mem`, which refuses what is not mapped: a thread may end at any moment. Where there are no others,
//! the image is written to where it is mapped.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::host::{self, Host, HostObject};
use super::storage::{Template, thread_local_address};
use super::{hooks, real};
use crate::addr::{Addr, Vaddr};
use crate::arch::native;
use crate::sys;

/// What has been given out of the reserve.
struct Given {
    /// Parts that are in use: where each starts, and how long it is.
    parts: Vec<(usize, usize)>,
    /// Nobody has had what lies between these: parts with an image are taken from below, such of zeroes from above.
    below: usize,
    above: usize,
}

static GIVEN: Mutex<Given> = Mutex::new(Given { parts: Vec::new(), below: 0, above: native::RESERVE });

/// The largest block that is taken from the reserve though glibc may have room for it; where such parts of zeroes begin, and
/// how many bytes are for such with an image. The rest is for those that glibc has no room for.
const SMALL_MAX: u64 = 1280;
const ZEROES_FROM: usize = native::RESERVE / 2;
const IMAGES: usize = native::RESERVE / 4;

/// Whether the page for small blocks with an image has been made writable.
static OPEN: AtomicBool = AtomicBool::new(false);

/// What a thread takes for the creation of another one, and the other for its start, is less than this.
const LONGER: Duration = Duration::from_millis(1);
/// For how long threads are waited for that the system does not let run.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A part of the reserve. Dropping it gives it back.
pub(super) struct Part {
    at: usize,
    /// The program's storage, as `__tls_get_addr` knows it.
    pub(super) module: usize,
    /// Where the part starts in that.
    pub(super) shift: u64,
    /// Where it starts, counted from the thread pointer.
    pub(super) offset: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        hooks::undisturbed(|| {
            GIVEN.lock().unwrap_or_else(PoisonError::into_inner).parts.retain(|(at, _)| *at != self.at);
        });
    }
}

/// The reserve as this thread has it.
struct Reserve {
    program: Arc<HostObject>,
    /// Where it starts: its address, counted from the thread pointer, and in the program's storage.
    here: usize,
    offset: usize,
    shift: usize,
}

impl Reserve {
    /// `None` if it is not at one offset in all threads.
    fn find() -> Option<Self> {
        let (host, here) = (hooks::undisturbed(Host::look), native::reserve());
        // A crate that came in with a library opened later has no block at one offset itself.
        let program = host.by_address(Addr(native::static_descriptor())).filter(|own| own.at_start)?;
        let shift = here.wrapping_sub(thread_local_address(program.tls_module, 0).0);
        Some(Self { program: Arc::clone(program), here, offset: here.wrapping_sub(native::thread_pointer()), shift })
    }

    /// Whether a block may start at `at`.
    fn fits(&self, template: &Template, at: usize) -> bool {
        // It is aligned to that in every thread, not to more.
        template.align <= native::RESERVE_ALIGN
            && (self.here.wrapping_add(at) as u64) % template.align.max(1) == template.skew
    }

    fn part(&self, at: usize) -> Part {
        let (shift, offset) = ((self.shift + at) as u64, self.offset.wrapping_add(at) as u64);
        Part { at, module: self.program.tls_module, shift, offset }
    }

    /// Where that many bytes of the reserve are in the image that threads to come start with, by its addresses in the file.
    fn image(&self, at: usize, size: usize) -> Option<Range<u64>> {
        let image = self.program.tls_image.as_ref()?;
        let start = image.start + self.shift.checked_add(at)? as u64;
        let end = start.checked_add(size as u64).filter(|end| *end <= image.end)?;
        Some(start..end)
    }

    /// Where small blocks with an image are, which this thread, the only one, may write then: the start of the first page of
    /// the image that is the reserve's alone. Nothing else can be written to for that; and it is asked for just once.
    fn open(&self) -> Option<Range<usize>> {
        let (page, whole) = (sys::page_size(), self.image(0, native::RESERVE)?);
        let start = self.program.bias.at(Vaddr(whole.start)).0 as u64;
        let at = usize::try_from(page.up(start)? - start).ok()?;
        let own = self.image(at, page.bytes() as usize)?;
        if own.end > whole.end || !(OPEN.load(Ordering::Relaxed) || host::unseal(&self.program.sealed(own)?)) {
            return None;
        }
        OPEN.store(true, Ordering::Relaxed);
        Some(at..at + IMAGES)
    }

    /// Writes a block to where it starts in the image for threads to come, which may be written to, and in this one's reserve.
    fn write(&self, at: usize, block: &[u8]) -> Option<()> {
        let in_image = self.program.bias.at(Vaddr(self.image(at, block.len())?.start)).0;
        for place in [in_image, self.here.wrapping_add(at)] {
            // SAFETY: a part of the program's image, which nobody else writes, or of this thread's reserve; it has been taken
            // for this block.
            unsafe { (place as *mut u8).copy_from_nonoverlapping(block.as_ptr(), block.len()) };
        }
        Some(())
    }

    /// The same where it may not be written to but for this moment.
    fn write_sealed(&self, at: usize, block: &[u8]) -> Option<()> {
        let pages = self.program.sealed(self.image(at, block.len())?)?;
        let mut written = None;
        host::write_sealed(&pages, || written = self.write(at, block));
        OPEN.store(false, Ordering::Relaxed);
        written
    }
}

/// Parts for those of `templates` that are small, where they are had for less than asking glibc.
pub(super) fn take_small(templates: &[Template]) -> Vec<Option<Part>> {
    let is_small = |template: &&Template| template.size <= SMALL_MAX;
    let reserve = templates.iter().find(is_small).and_then(|_| Reserve::find());
    let open = LazyCell::new(|| reserve.as_ref().filter(|_| is_alone())?.open());
    let take = |template| {
        let (template, reserve) = (Some(template).filter(is_small)?, reserve.as_ref()?);
        let (size, fits) = (template.size as usize, |at| reserve.fits(template, at));
        if template.image.iter().all(|byte| *byte == 0) {
            return find_zeroes(size, fits).map(|at| reserve.part(at));
        }
        let part = reserve.part(find_room(size, open.clone()?, fits)?);
        reserve.write(part.at, &template.block(size)).map(|()| part)
    };
    templates.iter().map(take).collect()
}

/// A part with the initial image of `template` in every thread; `None` if there is no room, or no reserve at one offset.
pub(super) fn take(template: &Template) -> Option<Part> {
    let reserve = Reserve::find()?;
    let size = usize::try_from(template.size).ok()?;
    let at = find_room(size, 0..native::RESERVE, |at| reserve.fits(template, at))?;
    let (part, block) = (reserve.part(at), template.block(size));
    // Where the image may not be made writable for a moment, it is written to as if there were other threads.
    if is_alone() && reserve.write_sealed(at, &block).is_some() {
        return Some(part);
    }
    // First the image that threads to come start with, then the threads there are, then those that had copied the image
    // before and were not there yet. Nobody uses that part before we have answered, so it may be written twice.
    let memory = own_memory()?;
    write(&memory, reserve.program.bias.at(Vaddr(reserve.image(at, size)?.start)).0, &block)?;
    // How far from its thread pointer glibc keeps the list that each thread has told the kernel (of locks to free if it
    // dies).
    let distance = robust_list(0)?.wrapping_sub(native::thread_pointer());
    let fill = |threads: &BTreeSet<i32>| -> BTreeSet<i32> {
        let lists = threads.iter().filter_map(|thread| Some((*thread, started(*thread)?)));
        let filled = lists.map(|(thread, list)| {
            // One that has ended meanwhile needs nothing any more.
            write(&memory, list.wrapping_sub(distance).wrapping_add(reserve.offset).wrapping_add(at), &block);
            thread
        });
        filled.collect()
    };
    let before = threads()?;
    let filled = fill(&before);
    wait_for_creations(&before);
    // Those, too, that slept because they were still being created.
    fill(&(&threads()? - &filled));
    Some(part)
}

/// Whether there is no other thread, and so nobody who could create one.
///
/// The C library's word for it knows nothing of threads that another copy of it creates (`dlmopen`), and those start with the
/// same image. So the kernel is asked where there may be one.
fn is_alone() -> bool {
    let host = hooks::undisturbed(Host::look);
    (host.are_all && real::is_single_threaded()) || count_threads() == Some(1)
}

/// Waits until these threads are past whatever thread each was creating when this began.
///
/// `pthread_create` copies the image some microseconds before the new thread is there, and glibc shows nothing that would
/// tell. But a thread is past them if it has run for longer than they take, and one that sleeps is not in them: all it
/// could sleep for there is a lock that others hold for as short a time, which is why it is looked at twice. What would
/// not come to an end (there are threads that the system does not let run) is not waited for.
fn wait_for_creations(threads: &BTreeSet<i32>) {
    const PAUSE: Duration = Duration::from_micros(100);
    let begun = Instant::now();
    // SAFETY: answers a number.
    let own = unsafe { libc::gettid() };
    let mut waiting: Vec<(i32, Duration)> =
        threads.iter().filter(|thread| **thread != own).filter_map(|thread| Some((*thread, ran(*thread)?))).collect();
    let mut asleep = 0;
    while asleep < 2 && begun.elapsed() < WAIT_MAX {
        waiting.retain(|(thread, at_first)| ran(*thread).is_some_and(|now| now < *at_first + LONGER));
        asleep = if waiting.iter().all(|(thread, _)| sleeps(*thread)) { asleep + 1 } else { 0 };
        std::thread::sleep(PAUSE);
    }
}

/// For how long a thread has run; `None` if it has ended.
fn ran(thread: i32) -> Option<Duration> {
    // The clock of a thread, as `pthread_getcpuclockid` makes it of the kernel's number.
    const OF_THREAD_AS_SCHEDULED: i32 = 4 | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one structure.
    let failed = unsafe { libc::clock_gettime(!thread << 3 | OF_THREAD_AS_SCHEDULED, &raw mut time) };
    (failed == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Whether a thread sleeps, until something wakes it.
fn sleeps(thread: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The state follows the name, which may have any characters in it.
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('S'))
}

/// Takes the first place of `size` bytes `within` that is free and fits.
fn find_room(size: usize, within: Range<usize>, fits: impl Fn(usize) -> bool) -> Option<usize> {
    hooks::undisturbed(|| {
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |at: usize| given.parts.iter().all(|(start, len)| at + size <= *start || at >= start + len);
        let last = within.end.checked_sub(size)?;
        let at = (within.start..=last).find(|at| fits(*at) && free(*at))?;
        given.parts.push((at, size));
        given.below = given.below.max(at + size);
        Some(at)
    })
}

/// Takes the last place of `size` bytes that nobody has had and that fits.
fn find_zeroes(size: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    hooks::undisturbed(|| {
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = (given.below.max(ZEROES_FROM), given.above.checked_sub(size)?);
        let at = (first..=last).rev().find(|at| fits(*at))?;
        given.parts.push((at, size));
        given.above = at;
        Some(at)
    })
}

/// The memory of this process, to be written whatever its protection.
fn own_memory() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/proc/self/mem").ok()
}

fn write(memory: &File, at: usize, bytes: &[u8]) -> Option<()> {
    memory.write_all_at(bytes, at as u64).ok()
}

/// Where a thread keeps its list, once it has told the kernel: a thread does that first of all, but it may be long until it
/// runs. `None` if it has ended, waits for the one that creates it (to be placed on processors), or is none of the C library's:
/// others that have run or sleep would have told.
fn started(thread: i32) -> Option<usize> {
    let begun = Instant::now();
    let mut would_have_told = false;
    loop {
        match robust_list(thread)? {
            0 if would_have_told => return None,
            0 => std::thread::yield_now(),
            list => return Some(list),
        }
        would_have_told = begun.elapsed() >= WAIT_MAX || ran(thread)? >= LONGER || sleeps(thread);
    }
}

/// The numbers of all threads. The kernel's list may leave some out while others end, so it is read until it has told
/// the same twice.
fn threads() -> Option<BTreeSet<i32>> {
    const READ_MAX: usize = 100;
    let mut last = BTreeSet::new();
    for _ in 0..READ_MAX {
        let mut now = BTreeSet::new();
        for task in fs::read_dir("/proc/self/task").ok()? {
            now.extend(task.ok()?.file_name().to_str().and_then(|number| number.parse::<i32>().ok()));
        }
        if now == last && Some(now.len() as u64) == count_threads() {
            return Some(now);
        }
        last = now;
    }
    None
}

/// How many threads there are. A directory has two links, and one for each directory in it.
fn count_threads() -> Option<u64> {
    fs::metadata("/proc/self/task").ok()?.nlink().checked_sub(2)
}

/// Where a thread (0: this one) keeps its list.
fn robust_list(thread: i32) -> Option<usize> {
    let (mut list, mut len) = (0usize, 0usize);
    // SAFETY: the kernel writes two words.
    let failed = unsafe { libc::syscall(libc::SYS_get_robust_list, thread, &raw mut list, &raw mut len) };
    (failed == 0).then_some(list)
}
