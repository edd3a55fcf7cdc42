//! The fork server: workers have the libraries as they are, clients get what theirs did, and nobody can hold up the others.

#![cfg(all(feature = "cli", target_arch = "x86_64", target_env = "gnu"))]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::fixture;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use soload::ErrorKind;

fn command(subcommand: &str, socket: &Path) -> Command {
    let mut command = common::command::command();
    command.arg(subcommand).arg("--socket").arg(socket);
    command
}

/// A server of the fixture, until this is dropped.
struct Server {
    process: Child,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        Self::start_at(folder, socket, options)
    }

    fn start_at(folder: tempfile::TempDir, socket: PathBuf, options: &[&str]) -> Self {
        let mut command = command("serve", &socket);
        let mut process = command.args(options).arg(fixture("serve")).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("1 library opened in ") && line.contains("listening at "), "{line}");
        Self { process, socket, folder }
    }

    fn ask(&self) -> Command {
        let mut command = command("ask", &self.socket);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The exit code of a request, and what it printed.
    #[track_caller]
    fn answer<S: AsRef<OsStr>>(&self, arguments: &[S]) -> (i32, String, String) {
        parts(self.ask().args(arguments).output().unwrap())
    }

    #[track_caller]
    fn serves(&self) {
        assert_eq!(self.answer(&["serve_is_fork"]), (0, "1\n".into(), String::new()));
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// The descriptors it has of one kind, as `/proc` begins their names.
    fn open(&self, kind: &str) -> usize {
        let all = fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap();
        all.filter(|fd| {
            fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.to_str().unwrap().starts_with(kind))
        })
        .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn parts(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Waits until it holds, for some seconds.
#[track_caller]
fn becomes(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_alive(pid: &str) -> bool {
    // What nobody waits for any more is dead all the same.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A client whose worker waits for a line, and that worker's process.
fn waiting(server: &Server, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut client = server.ask().args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    let mut text = [(); 3].map(|()| String::new());
    for line in &mut text {
        lines.read_line(line).unwrap();
    }
    let worker = text[2].trim().to_owned();
    assert!(is_alive(&worker), "{text:?}");
    (client, lines, worker)
}

#[test]
fn a_worker_has_what_the_constructor_did_in_the_server_and_leaves_nothing_to_the_next() {
    let server = Server::start(&[]);
    for _ in 0..3 {
        server.serves();
        assert_eq!(server.answer(&["serve_count"]), (0, "1\n".into(), String::new()), "nothing runs at exit");
    }
    assert_eq!(server.answer(&["--ret", "void", "serve_count"]), (0, String::new(), String::new()));
}

#[test]
fn a_worker_has_its_clients_streams_directory_and_arguments_and_the_client_its_exit_code() {
    let server = Server::start(&[]);
    let mut client = server.ask();
    client.args(["--main", "serve_main", "a b", "", "line\nline", "--"]).arg(OsStr::from_bytes(b"\xff"));
    let mut client = client.current_dir("/usr").stdin(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(b"something\n").unwrap();
    let output = client.wait_with_output().unwrap();
    let (code, out, err) = parts(output.clone());
    assert!(output.stdout.starts_with(b"[serve_main][a b][][line\nline][\xff]\n/usr\n"), "{out}");
    assert!(out.ends_with("\nread something\n"), "{out}");
    assert_eq!((code, err.as_str()), (5, "to the error\n"));
    assert_eq!(server.answer(&["serve_exit", "i32:77"]), (77, String::new(), String::new()));
}

#[test]
fn two_clients_are_served_at_once_and_one_after_the_other_if_there_may_be_one_worker() {
    let server = Server::start(&[]);
    let (mut first, mut first_lines, _) = waiting(&server, &["--main", "serve_main", "first"]);
    let (mut second, mut second_lines, _) = waiting(&server, &["--main", "serve_main"]);
    for (client, lines, code) in [(&mut second, &mut second_lines, 1), (&mut first, &mut first_lines, 2)] {
        client.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), client.wait().unwrap().code()), ("read go\n", Some(code)));
    }

    let server = Server::start(&["--workers", "1"]);
    let (mut first, _lines, _) = waiting(&server, &["--main", "serve_main"]);
    let mut second = server.ask().arg("serve_count").spawn().unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(second.try_wait().unwrap().is_none(), "it waits");
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success() || first.wait().unwrap().code() == Some(1));
    assert_eq!(parts(second.wait_with_output().unwrap()).0, 0);
}

#[test]
fn what_becomes_of_a_worker_is_told_and_the_server_goes_on() {
    let server = Server::start(&["--timeout", "1"]);
    let ended = |name: &str| format!("error: the worker was ended by {name}\n");
    assert_eq!(server.answer(&["serve_raise", "i32:10"]), (138, String::new(), ended("SIGUSR1")));
    assert_eq!(server.answer(&["serve_raise", "i32:9"]), (137, String::new(), ended("SIGKILL")));
    let (client, _, worker) = waiting(&server, &["--main", "serve_main"]);
    kill(Pid::from_raw(worker.parse().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(parts(client.wait_with_output().unwrap()).0, 143);
    let (code, out, err) = server.answer(&["serve_stay"]);
    let socket = server.socket.display();
    assert_eq!((code, err), (1, format!("error: {socket}: the worker was killed after 1 s\n")));
    becomes("both are gone", || !out.split_whitespace().any(is_alive));
    let (code, _, err) = server.answer(&["serve_nothing"]);
    assert!(code == 1 && err.contains("symbol serve_nothing: expected a definition, found none"), "{err}");
    assert_eq!(server.answer(&["serve_count", "5"]).0, 2, "no value");
    server.serves();
}

#[test]
fn a_worker_whose_client_is_gone_ends_and_so_does_what_it_has_started() {
    let server = Server::start(&[]);
    let (mut client, _lines, worker) = waiting(&server, &["--main", "serve_main"]);
    client.kill().unwrap();
    client.wait().unwrap();
    becomes("asked to end", || !is_alive(&worker));
    // One that does not listen.
    let mut client = server.ask().arg("serve_stay").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.split_whitespace().count() == 2 && line.split_whitespace().all(is_alive), "{line}");
    client.kill().unwrap();
    client.wait().unwrap();
    becomes("killed", || !line.split_whitespace().any(is_alive));
    server.serves();
}

fn send(socket: &UnixStream, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::empty(), None).unwrap();
}

#[test]
fn a_request_that_is_none_is_refused_with_a_reason_and_holds_nobody_up() {
    let server = Server::start(&[]);
    // A client has its answer a moment before the server lets go of it.
    let sockets = server.open("socket:");
    server.serves();
    becomes("at rest", || server.open("socket:") == sockets && server.open("anon_inode:[pidfd]") == 0);
    let before = server.open("");
    let null = File::open("/dev/null").unwrap();
    let (null, folder) = (null.as_raw_fd(), File::open("/").unwrap());
    let given = [null, null, null, folder.as_raw_fd()];
    let request = |len: u32, rest: &[u8]| [&b"soload?\0"[..], &len.to_ne_bytes(), rest].concat();
    // Whoever says nothing, or half of it.
    let silent = UnixStream::connect(&server.socket).unwrap();
    let half = UnixStream::connect(&server.socket).unwrap();
    send(&half, &request(100, b"ask\0"), &given);
    for _ in 0..20 {
        drop(UnixStream::connect(&server.socket).unwrap());
    }
    server.serves();
    let cases = [
        (request(0, b"")[..11].to_vec(), &given[..], "expected a request of at least 12 bytes, found 11"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[], "expected a request, found other bytes"),
        (request(0, b""), &given[..3], "expected 4 descriptors, found 3"),
        (request(0, b""), &[], "expected 4 descriptors, found 0"),
        (request(0, b""), &[null; 253], "expected 4 descriptors, found 253"),
        (request(0, b""), &[null; 4], "what came with the request cannot be taken over: Not a directory"),
        (request(3, b"ask"), &given[..], "expected a NUL after the last argument, found none"),
        (
            request(u32::MAX, b""),
            &given[..],
            "length of the arguments: expected at most 1048576 bytes, found 4294967295",
        ),
    ];
    for (bytes, fds, reason) in cases {
        let mut client = UnixStream::connect(&server.socket).unwrap();
        send(&client, &bytes, fds);
        let mut answer = Vec::new();
        // What was not read makes the end a reset.
        let _ = client.read_to_end(&mut answer);
        let expected = [&[1][..], &(reason.len() as u32).to_ne_bytes(), reason.as_bytes()].concat();
        assert!(answer.starts_with(&expected), "{reason}: {}", String::from_utf8_lossy(&answer));
    }
    // Sound as a request, but nothing that can be done.
    let mut client = UnixStream::connect(&server.socket).unwrap();
    send(&client, &request(9, b"ask\0--no\0"), &given);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [&[0][..], &0x100_i32.to_ne_bytes()].concat());
    drop((silent, half));
    becomes("no descriptor stays", || server.open("") == before);
    server.serves();
}

#[test]
fn whoever_says_nothing_is_told_so_after_some_seconds() {
    let server = Server::start(&[]);
    let mut silent = UnixStream::connect(&server.socket).unwrap();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer[5..]).starts_with("the request was not received: "), "{answer:?}");
}

#[test]
fn the_socket_is_the_users_own_and_goes_with_the_server() {
    let mut server = Server::start(&[]);
    let mode = fs::metadata(&server.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_client, _lines, worker) = waiting(&server, &["--main", "serve_main"]);
    // A second one, and one where something else is.
    let occupied = |socket: &Path| parts(command("serve", socket).arg(fixture("serve")).output().unwrap());
    let (code, _, err) = occupied(&server.socket);
    assert!(code == 1 && err.ends_with("another server listens there\n"), "{err}");
    let file = server.folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let (code, _, err) = occupied(&file);
    assert!(code == 1 && err.ends_with("expected a socket or nothing, found another kind of file\n"), "{err}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let long = server.folder.path().join("x".repeat(120));
    assert_eq!(occupied(&long).0, 1);
    // Where another holds the directory's lock and does not let go.
    let held = Flock::lock(File::open(server.folder.path()).unwrap(), FlockArg::LockExclusive).unwrap();
    let (code, _, err) = occupied(&server.folder.path().join("other"));
    assert!(code == 1 && err.contains("flock of the directory"), "{err}");
    drop(held);
    server.serves();

    kill(server.pid(), Signal::SIGTERM).unwrap();
    assert!(server.process.wait().unwrap().success());
    assert!(!server.socket.exists() && !is_alive(&worker));
    let (code, _, err) = server.answer(&["serve_count"]);
    assert!(code == 1 && err.contains("connect"), "{err}");
}

#[test]
fn a_server_that_is_killed_takes_its_workers_along_and_its_socket_is_used_again() {
    let mut server = Server::start(&[]);
    let (client, _lines, worker) = waiting(&server, &["--main", "serve_main"]);
    kill(server.pid(), Signal::SIGKILL).unwrap();
    server.process.wait().unwrap();
    becomes("gone", || !is_alive(&worker));
    let (code, _, err) = parts(client.wait_with_output().unwrap());
    assert!(code == 1 && err.ends_with("the server has ended without an answer\n"), "{err}");
    assert!(server.socket.exists());
    let again = Server::start_at(tempfile::tempdir().unwrap(), server.socket.clone(), &[]);
    again.serves();
}

#[test]
fn a_process_with_threads_does_not_fork() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let why = "expected a process of one thread, found 2: a fork has only one of them\n";
    for name in ["serve_thread", "serve_running"] {
        let (code, _, err) = parts(command("serve", &socket).arg(fixture(name)).output().unwrap());
        assert!(code == 1 && err.ends_with(why), "{name}: {err}");
        assert!(!socket.exists());
    }
}

#[test]
fn other_users_are_neither_served_nor_asked() {
    const NOBODY: u32 = 65534;
    let server = Server::start(&[]);
    fs::set_permissions(server.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&server.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let output = server.ask().arg("serve_count").uid(NOBODY).gid(NOBODY).output();
    let Ok(output) = output else { return eprintln!("DID NOT RUN: this user cannot become another") };
    let (code, _, err) = parts(output);
    assert!(code == 1 && err.ends_with("user of the other end: expected 0, found 65534\n"), "{err}");
    server.serves();

    // The other way round: whoever listens there would get our streams.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let socket = folder.path().join("socket");
    let mut theirs = command("serve", &socket);
    let mut theirs = theirs.arg(fixture("serve")).uid(NOBODY).gid(NOBODY).stdout(Stdio::null()).spawn().unwrap();
    becomes("it listens", || socket.exists());
    let (code, _, err) = parts(command("ask", &socket).arg("serve_count").output().unwrap());
    theirs.kill().unwrap();
    theirs.wait().unwrap();
    assert!(code == 1 && err.ends_with("user of the other end: expected 0, found 65534\n"), "{err}");
}

#[test]
fn an_answer_that_is_none_is_an_error_for_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    for (answer, expected) in [
        (&[2, 0, 0, 0, 0][..], "expected an answer, found other bytes: it is no server of soload"),
        (&[1, 0xff, 0xff, 0xff, 0x7f], "expected an answer, found other bytes: it is no server of soload"),
        (&[1, 3, 0, 0, 0, b'w'], "the server has ended without an answer"),
        (&[0, 0, 0], "the server has ended without an answer"),
        (&[1, 3, 0, 0, 0, b'w', b'h', b'y'], "why"),
    ] {
        thread::scope(|scope| {
            let path = &socket;
            let asked = scope.spawn(move || soload::Server::request(path, &["serve_count"]).unwrap_err());
            let (mut client, _) = listener.accept().unwrap();
            client.read_exact(&mut [0; 12 + 12]).unwrap();
            client.write_all(answer).unwrap();
            drop(client);
            let error = asked.join().unwrap();
            assert!(matches!(error.kind(), ErrorKind::Server { what } if what == expected), "{error}");
        });
    }
    let error = soload::Server::request(&socket, &["a\0b"]).unwrap_err();
    assert!(error.to_string().ends_with("arguments: expected at most 1048576 bytes, and no NUL among them"), "{error}");
}
