//! A process in a container, bridged to the user who asked for it by way of a manager.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::v1::exec_input::Input;
use shoal_proto::v1::exec_output::Output;
use shoal_proto::v1::exec_stream_message::Message;
use shoal_proto::v1::{
    ExecAttach, ExecExit, ExecFailed, ExecInput, ExecOutput, ExecStart, ExecStreamMessage, Nothing,
    StartExec, TerminalSize,
};
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::Client;
use super::workload::{Workload, WorkloadError};
use shoal_agent_runtime::{ExecSession, ExecSpec, RuntimeError, Stream, TermSize};

/// Pieces of output on their way to the manager.
const QUEUE: usize = 16;
/// How long the manager may take to take the stream.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the manager may take to end its side when the process has ended.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// A terminal's size until the user's is known.
const USUAL_SIZE: TermSize = TermSize { rows: 24, cols: 80 };
/// Exit code when nobody knows the real one.
const UNKNOWN_EXIT: i32 = 255;

/// Opens the stream, runs the process and stays until it has ended or somebody broke off, in which
/// case the process is killed. `refused` says why nothing is run at all.
pub(super) async fn serve(
    mut client: Client,
    workload: Arc<dyn Workload>,
    request: StartExec,
    refused: Option<&'static str>,
) {
    let StartExec { exec_id, start } = request;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let attach = Message::Attach(ExecAttach { exec_id: exec_id.clone() });
    // There is room: nothing has been sent yet.
    let _ = sender.send(ExecStreamMessage { message: Some(attach) }).await;
    let call = client.exec_stream(ReceiverStream::new(receiver));
    let mut inputs = match tokio::time::timeout(ATTACH_TIMEOUT, call).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return tracing::debug!(exec_id, %status, "nobody waits for an exec"),
        Err(_) => return tracing::debug!(exec_id, "nobody takes an exec in time"),
    };
    let out = Out(sender);
    // Nobody waits any more when sending fails, so there is nothing left to do.
    let _ = match refused {
        Some(why) => out.failed(Code::ResourceExhausted, why.to_owned()).await,
        None => run(&out, workload, start.unwrap_or_default(), &mut inputs).await,
    };
    // Our end is said; what is under way arrives only while the call is kept.
    drop(out);
    let other_end = async { while let Ok(Some(_)) = inputs.message().await {} };
    let _ = tokio::time::timeout(END_TIMEOUT, other_end).await;
}

/// The user is gone, or the manager is.
struct Gone;

struct Out(mpsc::Sender<ExecStreamMessage>);

impl Out {
    async fn send(&self, message: Message) -> Result<(), Gone> {
        self.0.send(ExecStreamMessage { message: Some(message) }).await.map_err(|_| Gone)
    }

    async fn output(&self, output: Output) -> Result<(), Gone> {
        self.send(Message::Output(ExecOutput { output: Some(output) })).await
    }

    async fn failed(&self, code: Code, message: String) -> Result<(), Gone> {
        self.send(Message::Failed(ExecFailed { code: code.into(), message })).await
    }
}

async fn run(
    out: &Out,
    workload: Arc<dyn Workload>,
    start: ExecStart,
    inputs: &mut Streaming<ExecInput>,
) -> Result<(), Gone> {
    let (task, spec) = match read(start) {
        Ok(read) => read,
        Err(why) => return out.failed(Code::InvalidArgument, why).await,
    };
    let session = tokio::select! {
        session = workload.exec(task, spec) => session,
        () = out.0.closed() => return Err(Gone),
    };
    match session {
        Ok(session) => {
            out.output(Output::Started(Nothing {})).await?;
            bridge(out, session, inputs).await
        }
        Err(error) => not_started(out, &error).await,
    }
}

/// As a shell does it: a command that cannot be run is a message and an exit code.
async fn not_started(out: &Out, error: &WorkloadError) -> Result<(), Gone> {
    let message = chain(error).to_string();
    let shell_code = match error {
        WorkloadError::Runtime(error) => error.shell_code(),
        WorkloadError::Failed(_) => None,
    };
    let Some(code) = shell_code else { return out.failed(code_of(error), message).await };
    out.output(Output::Started(Nothing {})).await?;
    out.output(Output::Stderr(format!("{message}\n").into())).await?;
    out.output(Output::Exit(ExecExit { code })).await
}

fn code_of(error: &WorkloadError) -> Code {
    match error {
        WorkloadError::Runtime(RuntimeError::NotFound { .. }) => Code::NotFound,
        WorkloadError::Runtime(RuntimeError::NotRunning { .. }) => Code::FailedPrecondition,
        WorkloadError::Runtime(
            RuntimeError::UnknownUser { .. } | RuntimeError::Unsupported { .. },
        ) => Code::InvalidArgument,
        WorkloadError::Runtime(_) | WorkloadError::Failed(_) => Code::Internal,
    }
}

/// Both directions and the end, side by side. Returning drops the session: the process is killed
/// unless it has ended.
async fn bridge(
    out: &Out,
    session: ExecSession,
    inputs: &mut Streaming<ExecInput>,
) -> Result<(), Gone> {
    let ExecSession { pid: _, stdin, mut output, resize, wait } = session;
    let outward = async {
        while let Some((stream, bytes)) = output.recv().await {
            let piece = match stream {
                Stream::Stdout => Output::Stdout(bytes.into()),
                Stream::Stderr => Output::Stderr(bytes.into()),
            };
            out.output(piece).await?;
        }
        Ok(())
    };
    let run = async {
        outward.await?;
        let code = match wait.await {
            Ok(status) => status.shell_code().unwrap_or(UNKNOWN_EXIT),
            Err(error) => {
                let text = format!("exit status unknown: {}\n", chain(&error));
                out.output(Output::Stderr(text.into())).await?;
                UNKNOWN_EXIT
            }
        };
        out.output(Output::Exit(ExecExit { code })).await
    };
    tokio::select! {
        ended = run => ended,
        () = inward(inputs, stdin, resize) => Err(Gone),
        // The input may wait for a process that does not read; this does not.
        () = out.0.closed() => Err(Gone),
    }
}

/// Returns when the other side has broken off.
async fn inward(
    inputs: &mut Streaming<ExecInput>,
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<TermSize>,
) {
    let mut stdin = Some(stdin);
    loop {
        let input = match inputs.message().await {
            Ok(Some(input)) => input.input,
            Ok(None) | Err(_) => return,
        };
        match input {
            Some(Input::Stdin(bytes)) => {
                // A process that has closed its stdin does not care.
                if let Some(open) = &stdin
                    && open.send(bytes.into()).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(Input::CloseStdin(Nothing {})) => stdin = None,
            // The newest size comes again with the next change if there is no room for this one.
            Some(Input::Resize(wanted)) => {
                if let Ok(size) = size(&wanted) {
                    let _ = resize.try_send(size);
                }
            }
            Some(Input::Start(_)) | None => {}
        }
    }
}

fn read(start: ExecStart) -> Result<(TaskId, ExecSpec), String> {
    let ExecStart { task, argv, env, user, workdir, tty, size: wanted } = start;
    let id = task.parse().map_err(|error| format!("task: {error}"))?;
    if argv.is_empty() {
        return Err("argv: is empty, expected a program and its arguments".to_owned());
    }
    let tty = match (tty, wanted) {
        (false, _) => None,
        (true, None) => Some(USUAL_SIZE),
        (true, Some(wanted)) => Some(size(&wanted)?),
    };
    let spec = ExecSpec {
        argv,
        env,
        user: (!user.is_empty()).then_some(user),
        cwd: (!workdir.is_empty()).then(|| workdir.into()),
        tty,
        stdin: true,
        sweep: false,
    };
    Ok((id, spec))
}

fn size(wanted: &TerminalSize) -> Result<TermSize, String> {
    let number = |field: &str, n: u32| {
        u16::try_from(n).map_err(|_| format!("size.{field}: is {n}, expected at most 65535"))
    };
    Ok(TermSize { rows: number("rows", wanted.rows)?, cols: number("columns", wanted.columns)? })
}
