//! The push half of the distribution protocol, for a registry on this host: plain HTTP/1.1, one
//! connection per request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Blob;

/// A repository to push to.
pub(super) struct Target<'a> {
    pub registry: &'a str,
    pub repository: &'a str,
    pub credentials: Option<&'a str>,
}

struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

impl Target<'_> {
    /// Uploads a blob unless the registry has it.
    pub(super) fn blob(&self, blob: &Blob) -> Result<()> {
        let path = format!("/v2/{}/blobs/{}", self.repository, blob.digest);
        if self.send("HEAD", &path, "", &[])?.status == 200 {
            return Ok(());
        }
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let started = self.expect(202, "POST", &path, "", &[])?;
        let location = started.location.context("the registry names no upload location")?;
        let place = location.split_once("://").map_or(location.as_str(), |(_, rest)| {
            rest.find('/').map_or("/", |slash| &rest[slash..])
        });
        let joint = if place.contains('?') { '&' } else { '?' };
        let path = format!("{place}{joint}digest={}", blob.digest);
        self.expect(201, "PUT", &path, "application/octet-stream", &blob.bytes)?;
        Ok(())
    }

    /// Uploads a manifest or index under a tag or its own digest.
    pub(super) fn manifest(&self, manifest: &Blob, tag: &str) -> Result<()> {
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        self.expect(201, "PUT", &path, &manifest.media_type, &manifest.bytes)?;
        Ok(())
    }

    fn expect(
        &self,
        status: u16,
        method: &str,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<Answer> {
        let answer = self.send(method, path, media_type, body)?;
        if answer.status != status {
            bail!(
                "registry {} answered {} to {method} {path}: {}",
                self.registry,
                answer.status,
                answer.body.trim()
            );
        }
        Ok(answer)
    }

    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.registry)
            .with_context(|| format!("connect to registry {}", self.registry))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.registry,
            body.len()
        );
        if !media_type.is_empty() {
            head.push_str(&format!("Content-Type: {media_type}\r\n"));
        }
        if let Some(credentials) = self.credentials {
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
            head.push_str(&format!("Authorization: Basic {encoded}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        read_answer(BufReader::new(stream))
    }
}

fn read_answer(mut reader: BufReader<TcpStream>) -> Result<Answer> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("the registry answered {line:?}"))?;
    let mut location = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("location")
        {
            location = Some(value.trim().to_owned());
        }
    }
    let mut body = String::new();
    // Only for error texts; a registry that resets the connection after its headers said enough.
    let _ = reader.take(16 * 1024).read_to_string(&mut body);
    Ok(Answer { status, location, body })
}
