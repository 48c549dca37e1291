//! Images of this host.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use futures::StreamExt as _;
use serde_json::json;
use shoal_client::local::Image;
use shoal_types::time::Timestamp;
use tokio_stream::wrappers::ReceiverStream;

use super::{Result, Shell, each};
use crate::error::CommandError;
use crate::render::record::{self, Record};
use crate::render::table::{Column, whole};
use crate::render::time::{ago, now};
use crate::render::words::repository_and_tag;
use crate::render::{id, json, line};

/// Bytes of an archive that are sent at a time; the agent takes no more than 1 MiB.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take in an image archive: an OCI image layout or the output of `docker save`
    Load {
        /// The archive; standard input if absent
        #[arg(long, short, value_name = "FILE")]
        input: Option<PathBuf>,
        /// Write nothing but errors
        #[arg(long, short)]
        quiet: bool,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// Write ids only
        #[arg(long, short)]
        quiet: bool,
        /// Do not shorten anything
        #[arg(long)]
        no_trunc: bool,
    },
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm {
        /// References, ids or unique beginnings of ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

impl Command {
    /// Whether the command writes records one after the other rather than one document.
    pub(crate) const fn writes_records(&self) -> bool {
        matches!(self, Self::Rm { .. } | Self::Load { .. })
    }
}

pub(crate) async fn run(shell: &Shell, command: Command) -> Result {
    match command {
        Command::Load { input, quiet } => load(shell, input, quiet).await,
        Command::Ls { quiet, no_trunc } => list(shell, quiet, no_trunc).await,
        Command::Rm { images } => {
            let agent = shell.agent()?;
            shell.ended("removed", Vec::new());
            each(shell, &images, |image| {
                let agent = agent.clone();
                async move {
                    let removed = agent.remove_image(&image).await?;
                    if shell.is_json() {
                        let what = json!({ "Image": image, "Removed": removed });
                        return record::write(&Record::Applied { what });
                    }
                    removed.iter().try_for_each(|name| line(name))
                }
            })
            .await
        }
    }
}

async fn load(shell: &Shell, input: Option<PathBuf>, quiet: bool) -> Result {
    let mut archive: Box<dyn io::Read + Send> = match &input {
        Some(path) => Box::new(File::open(path).map_err(|e| {
            CommandError::failed(format!("cannot open {}", path.display())).because(e)
        })?),
        None if io::stdin().is_terminal() => {
            return Err(CommandError::usage(
                "the archive is missing: expected -i FILE, or standard input",
            ));
        }
        None => Box::new(io::stdin()),
    };
    let agent = shell.agent()?;
    let (send, receive) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
    let broken = Arc::new(std::sync::Mutex::new(None));
    let reading = Arc::clone(&broken);
    let reader = tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            match archive.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece) {
                Ok(0) => return,
                Ok(_) if send.blocking_send(piece).is_err() => return,
                Ok(_) => {}
                Err(error) => {
                    if let Ok(mut broken) = reading.lock() {
                        *broken = Some(error);
                    }
                    return;
                }
            }
        }
    });
    let loaded = agent.load_image(ReceiverStream::new(receive).fuse()).await;
    let broken = broken.lock().ok().and_then(|mut b| b.take());
    if let Some(error) = broken {
        return Err(CommandError::failed("cannot read the archive").because(error));
    }
    let images = loaded?;
    // The agent has all it wanted; what may follow in the input does not matter.
    reader.abort();
    if quiet {
        return Ok(());
    }
    for image in &images {
        let names = if image.references.is_empty() {
            image.id.clone()
        } else {
            image.references.join(", ")
        };
        if shell.is_json() {
            let what = serde_json::to_value(image).map_err(json::not_json)?;
            record::write(&Record::Applied { what })?;
        } else {
            line(&format!("loaded {names}"))?;
        }
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Row {
    repository: String,
    tag: String,
    /// Of the manifest, where the reference has it.
    digest: Option<String>,
    #[serde(flatten)]
    image: Image,
}

/// The columns of the list of images.
pub(crate) const COLUMNS: [Column; 5] = [
    whole("REPOSITORY"),
    whole("TAG"),
    whole("IMAGE ID").field("ID"),
    whole("CREATED").field("CreatedSince").rank(2),
    whole("SIZE").rank(1),
];

async fn list(shell: &Shell, quiet: bool, no_trunc: bool) -> Result {
    let images = shell.agent()?.images().await?;
    if quiet {
        return images.iter().try_for_each(|i| line(&shown(&i.id, no_trunc)));
    }
    if shell.is_json() {
        return json::document(&images);
    }
    let rows: Vec<Row> = images
        .into_iter()
        .flat_map(|image| {
            let names: Vec<(String, String, Option<String>)> = if image.references.is_empty() {
                vec![("<none>".to_owned(), "<none>".to_owned(), None)]
            } else {
                image.references.iter().map(|reference| named(reference)).collect()
            };
            names.into_iter().map(move |(repository, tag, digest)| Row {
                repository,
                tag,
                digest,
                image: image.clone(),
            })
        })
        .collect();
    let now = now();
    let row = |row: &Row| {
        let created = Timestamp::from_nanos(row.image.created_at);
        vec![
            row.repository.clone(),
            row.tag.clone(),
            shown(&row.image.id, no_trunc),
            if row.image.created_at == 0 { "N/A".to_owned() } else { ago(created, now) },
            bytesize::ByteSize::b(row.image.size_bytes).display().si().to_string(),
        ]
    };
    let more = |row: &Row| {
        let digest = row.digest.clone().unwrap_or_else(|| "<none>".to_owned());
        vec![Timestamp::from_nanos(row.image.created_at).to_string(), digest]
    };
    shell.list_more(&rows, None, &COLUMNS, row, (&["CreatedAt", "Digest"], more), no_trunc)
}

/// Repository, tag and digest of a reference.
fn named(reference: &str) -> (String, String, Option<String>) {
    let (repository, tag) = repository_and_tag(reference);
    (repository, tag, reference.split_once('@').map(|(_, digest)| digest.to_owned()))
}

fn shown(image_id: &str, whole: bool) -> String {
    if whole { image_id.to_owned() } else { id(image_id.trim_start_matches("sha256:"), false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_digest_or_none() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of = |reference: &str| named(reference).2;
        assert_eq!(of(&format!("docker.io/library/nginx:1@{digest}")), Some(digest));
        assert_eq!(of("docker.io/library/nginx:1"), None);
    }
}
