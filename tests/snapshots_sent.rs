//! Snapshots sent over sockets: a worker that is another program shares their pages, and whatever else comes is refused.

#![cfg(all(feature = "snapshots", target_arch = "x86_64", target_env = "gnu"))]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // the fixtures' symbols have the types that the tests state

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use soload::{ErrorKind, Image, OpenOptions, PageMap, PageSize, PageState, Plan, Snapshot, SnapshotUse, Vaddr};

const WORKER: &str = "SOLOAD_TEST_WORKER";
/// How a snapshot's message begins.
const MESSAGE: &[u8] = b"soload snapshot\0";

#[test]
fn a_worker_that_is_sent_a_snapshot_shares_its_pages_with_another() {
    if std::env::var_os(WORKER).is_some() {
        work();
    }
    on_ours(|_| {
        let library = fixture("demo");
        let snapshot = Snapshot::create(&library).unwrap();
        let this = "a_worker_that_is_sent_a_snapshot_shares_its_pages_with_another";
        let mut workers: Vec<_> = (0..2)
            .map(|_| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let mut worker = Command::new(std::env::current_exe().unwrap());
                worker.args(["--exact", this, "--nocapture", "--test-threads=1"]).env(WORKER, "1");
                let worker = worker.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().unwrap();
                snapshot.send(&ours).unwrap();
                (BufReader::new(ours), worker)
            })
            .collect();
        let line = |socket: &mut BufReader<UnixStream>| {
            let mut line = String::new();
            socket.read_line(&mut line).unwrap();
            line
        };
        for (socket, _) in &mut workers {
            assert_eq!(line(socket), "loaded, hello from a library that dlopen never saw\n");
        }
        // Only now does each page have two users.
        let written = snapshot.written_pages(&library);
        for (socket, _) in &mut workers {
            socket.get_mut().write_all(b"\n").unwrap();
            let counted = line(socket);
            let counts: Vec<usize> = counted.split_whitespace().map(|count| count.parse().unwrap()).collect();
            let [relocated, shared, exclusive] = counts[..] else { panic!("{counted}") };
            assert_eq!(relocated, written.len(), "each worker writes the pages that the snapshot names");
            assert!(shared >= 7 && exclusive == 0, "the tables of pointers are one for both: {counted}");
        }
        for (socket, mut worker) in workers {
            drop(socket);
            assert!(worker.wait().unwrap().success());
        }
    });
}

/// A worker: its standard input is the socket.
fn work() -> ! {
    let stdin = std::io::stdin();
    let mut socket = UnixStream::from(stdin.as_fd().try_clone_to_owned().unwrap());
    let snapshot = Snapshot::receive(&socket).unwrap();
    let path = snapshot.libraries()[0].clone();
    let image = Image::open(&path).unwrap();
    let plan = Plan::of(&image, PageSize::native()).unwrap();
    drop(image);
    let writable: Vec<_> = plan.maps().iter().filter(|map| map.protection.write && map.file.is_some()).collect();
    let ranges: Vec<_> = writable.iter().map(|map| map.range.clone()).collect();
    let relocated = Arc::new(Mutex::new(0));
    let (counts, before) = (Arc::clone(&relocated), ranges.clone());
    let mut options = OpenOptions::new();
    options.before_constructors(move |_, bias| {
        let maps = before.iter().map(|range| PageMap::of_range(bias.at(range.start)..bias.at(range.end)).unwrap());
        *counts.lock().unwrap() = maps.map(|map| map.count(PageState::Copied)).sum();
    });
    let library = unsafe { options.snapshot(&snapshot).open(&path) }.unwrap();
    assert_eq!(library.snapshot(), SnapshotUse::Used { made: false });
    let bias = library.bias().unwrap();
    let library = Lib::Ours(library);
    for range in &ranges {
        for page in (range.start.0..range.end.0).step_by(4096) {
            std::hint::black_box(unsafe { (bias.at(Vaddr(page)).0 as *const u8).read_volatile() });
        }
    }
    writeln!(socket, "loaded, {}", library.call_text("demo_greeting")).unwrap();
    socket.read_exact(&mut [0]).unwrap();
    let maps: Vec<_> =
        ranges.iter().map(|range| PageMap::of_range(bias.at(range.start)..bias.at(range.end)).unwrap()).collect();
    let count = |state| maps.iter().map(|map| map.count(state)).sum::<usize>();
    let relocated = *relocated.lock().unwrap();
    writeln!(socket, "{relocated} {} {}", count(PageState::Shared), count(PageState::Exclusive)).unwrap();
    let _ = socket.read(&mut [0]);
    std::process::exit(0)
}

fn send(socket: impl AsFd, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::empty(), None).unwrap();
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn memory_file(content: &[u8], seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    File::from(fd.try_clone().unwrap()).write_all(content).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}

#[test]
fn whatever_else_is_sent_is_refused_with_a_reason_and_no_descriptor_stays_open() {
    on_ours(|_| {
        let snapshot = Snapshot::create(fixture("demo")).unwrap();
        let good = snapshot.as_fd().as_raw_fd();
        let mut bytes = Vec::new();
        File::open(format!("/proc/self/fd/{good}")).unwrap().read_to_end(&mut bytes).unwrap();
        let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        let open = memory_file(&bytes, SealFlag::F_SEAL_GROW);
        let no_snapshot = memory_file(b"#!/bin/sh\n", all);
        bytes[40] ^= 1;
        let damaged = memory_file(&bytes, all);
        let file = File::open(fixture("demo")).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let message = "expected a message of 16 bytes, found";
        let unsealed = "expected a memory file that is sealed against writing and resizing";
        let other_kind = "expected a sealed memory file, found another kind of file";
        let cases: [(&[u8], Vec<RawFd>, String); 12] = [
            (MESSAGE, vec![], "expected a message with 1 descriptor, found 0".into()),
            (MESSAGE, vec![good; 2], "expected a message with 1 descriptor, found 2".into()),
            (MESSAGE, vec![good; 253], "expected a message with 1 descriptor, found 253".into()),
            (&MESSAGE[..15], vec![good], format!("{message} 15")),
            (b"S", vec![], format!("{message} 1")),
            (b"soload SNAPSHOT\0", vec![good], format!("{message} others")),
            (MESSAGE, vec![open.as_raw_fd()], unsealed.into()),
            (MESSAGE, vec![file.as_raw_fd()], other_kind.into()),
            (MESSAGE, vec![stream.as_raw_fd()], other_kind.into()),
            (MESSAGE, vec![libc::STDIN_FILENO], other_kind.into()),
            (MESSAGE, vec![no_snapshot.as_raw_fd()], "damaged: it is not as long as it states".into()),
            (MESSAGE, vec![damaged.as_raw_fd()], "damaged, or made in another session: its seal does not fit".into()),
        ];
        let before = open_files();
        for (bytes, fds, expected) in &cases {
            let (theirs, ours) = UnixStream::pair().unwrap();
            send(&theirs, bytes, fds);
            let error = Snapshot::receive(&ours).unwrap_err();
            assert_eq!(error.to_string(), format!("snapshot: snapshot refused: {expected}"));
        }
        // Packets: a longer one is cut, and the descriptors come all the same.
        let (theirs, ours) = UnixDatagram::pair().unwrap();
        send(&theirs, &[MESSAGE, b"more"].concat(), &[good; 3]);
        let error = Snapshot::receive(&ours).unwrap_err().to_string();
        assert_eq!(error, format!("snapshot: snapshot refused: {message} more than that"));
        snapshot.send(&theirs).unwrap();
        assert_eq!(Snapshot::receive(&ours).unwrap().libraries(), snapshot.libraries());
        drop((theirs, ours));
        assert_eq!(open_files(), before, "nothing stays open");
    });
}

#[test]
fn who_has_no_descriptor_left_gets_an_error_and_loses_none() {
    on_ours(|_| {
        let snapshot = Snapshot::create(fixture("demo")).unwrap();
        let (theirs, ours) = UnixStream::pair().unwrap();
        send(&theirs, MESSAGE, &[snapshot.as_fd().as_raw_fd(); 9]);
        snapshot.send(&theirs).unwrap();
        let before = open_files();
        let limit = |soft: u64| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: 1024 };
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        // Room for four of nine at most.
        let lowest = File::open("/dev/null").unwrap().as_raw_fd() as u64;
        limit(lowest + 4);
        let error = Snapshot::receive(&ours).unwrap_err().to_string();
        limit(1024);
        assert_eq!(error, "snapshot: snapshot refused: expected a message of 16 bytes, found more than that");
        assert_eq!(open_files(), before);
        assert!(Snapshot::receive(&ours).is_ok(), "the next one");
    });
}

#[test]
fn nobody_waits_for_longer_than_the_socket_does_and_nobody_dies_of_who_is_gone() {
    on_ours(|_| {
        let (theirs, ours) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let error = Snapshot::receive(&ours).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::System { call: "recvmsg", errno: libc::EAGAIN }), "{error}");
        // What follows a snapshot is left for whoever reads on.
        let snapshot = Snapshot::create(fixture("demo")).unwrap();
        snapshot.send(&theirs).unwrap();
        (&theirs).write_all(b"and more").unwrap();
        assert_eq!(Snapshot::receive(&ours).unwrap().libraries(), [fixture("demo")]);
        let mut rest = [0; 8];
        (&ours).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"and more");
        drop(ours);
        let error = snapshot.send(&theirs).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::System { call: "sendmsg", errno: libc::EPIPE }), "{error}");
        let error = Snapshot::receive(File::open("/dev/null").unwrap()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::System { call: "recvmsg", errno: libc::ENOTSOCK }), "{error}");
    });
}
