//! Running a program in a running container.

use std::env;
use std::io::{self, IsTerminal as _, Read as _};

use clap::Args;
use shoal_proto::v1 as pb;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Result, Shell, tasks};
use crate::error::{CommandError, Kind};
use crate::terminal::{RawMode, size};

/// Bytes of input that are sent at a time.
const PIECE_BYTES: usize = 16 << 10;

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Pass standard input on
    #[arg(long, short)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(long, short)]
    tty: bool,
    /// An environment variable; without =VALUE it takes that of this environment
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// `USER[:GROUP]`, names or numbers
    #[arg(long, short)]
    user: Option<String>,
    /// Working directory in the container
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    /// A task by id or name such as web.1, or a service with one running task
    task: String,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    argv: Vec<String>,
}

pub(crate) async fn run(shell: &Shell, args: Exec) -> Result {
    if args.tty && args.interactive && !io::stdin().is_terminal() {
        return Err(CommandError::usage("-t needs a terminal, and standard input is none")
            .hint("leave -t out to pass a file or a pipe on"));
    }
    let client = shell.manager().await?;
    let task = tasks::find_running(&client, &args.task).await?;
    let start = pb::ExecStart {
        task: task.id.to_string(),
        argv: args.argv,
        env: args.env.into_iter().filter_map(env_entry).collect(),
        user: args.user.unwrap_or_default(),
        workdir: args.workdir.unwrap_or_default(),
        tty: args.tty,
        size: if args.tty { size().map(wire_size) } else { None },
    };
    let (input, receive) = mpsc::channel(16);
    // Nobody has closed the other end yet, and there is room.
    let _ = input.try_send(message(pb::exec_input::Input::Start(start)));
    let output = client.exec(ReceiverStream::new(receive)).await?;
    let mut session = Session { output, input, signals: Signals::new()? };
    let code = {
        // Dropped on every way out of here, a panic included.
        let _raw = if args.tty && args.interactive { Some(RawMode::enter()?) } else { None };
        session.run(args.interactive, args.tty).await?
    };
    match code {
        0 => Ok(()),
        code => Err(CommandError::new(Kind::Exit(u8::try_from(code).unwrap_or(255)), "")),
    }
}

fn env_entry(text: String) -> Option<String> {
    if text.contains('=') {
        return Some(text);
    }
    env::var(&text).ok().map(|value| format!("{text}={value}"))
}

fn message(input: pb::exec_input::Input) -> pb::ExecInput {
    pb::ExecInput { input: Some(input) }
}

fn wire_size((rows, columns): (u16, u16)) -> pb::TerminalSize {
    pb::TerminalSize { rows: rows.into(), columns: columns.into() }
}

struct Signals {
    resize: Signal,
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|e| CommandError::failed("cannot listen for signals").because(e))
        };
        Ok(Self {
            resize: listen(SignalKind::window_change())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

struct Session {
    output: tonic::Streaming<pb::ExecOutput>,
    input: mpsc::Sender<pb::ExecInput>,
    signals: Signals,
}

impl Session {
    /// Passes everything on until the program has ended; its exit code.
    async fn run(&mut self, interactive: bool, tty: bool) -> Result<i32> {
        loop {
            tokio::select! {
                said = self.output.message() => match said?.and_then(|m| m.output) {
                    Some(pb::exec_output::Output::Started(_)) => self.feed(interactive),
                    Some(pb::exec_output::Output::Stdout(bytes)) => write(io::stdout(), &bytes)?,
                    Some(pb::exec_output::Output::Stderr(bytes)) => write(io::stderr(), &bytes)?,
                    Some(pb::exec_output::Output::Exit(exit)) => return Ok(exit.code),
                    None => {
                        return Err(CommandError::failed("the connection to the program was lost"));
                    }
                },
                _ = self.signals.resize.recv(), if tty => {
                    if let Some(size) = size() {
                        let resize = message(pb::exec_input::Input::Resize(wire_size(size)));
                        // A full queue means that a newer size follows input that is stuck.
                        let _ = self.input.try_send(resize);
                    }
                }
                _ = self.signals.terminate.recv() => return Ok(128 + 15),
                _ = self.signals.hang_up.recv() => return Ok(128 + 1),
                _ = self.signals.interrupt.recv() => return Ok(128 + 2),
            }
        }
    }

    /// Sends standard input, or closes it at once.
    fn feed(&self, interactive: bool) {
        let close = message(pb::exec_input::Input::CloseStdin(pb::Nothing {}));
        let input = self.input.clone();
        if !interactive {
            let _ = input.try_send(close);
            return;
        }
        // A thread of its own, which nobody waits for: reading a terminal cannot be broken off.
        std::thread::spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let read = match stdin.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                };
                let bytes = piece[..read].to_vec();
                let sent = input.blocking_send(message(pb::exec_input::Input::Stdin(bytes)));
                if sent.is_err() {
                    return;
                }
            }
            let _ = input.blocking_send(close);
        });
    }
}

fn write(mut to: impl io::Write, bytes: &[u8]) -> Result {
    to.write_all(bytes)?;
    Ok(to.flush()?)
}
