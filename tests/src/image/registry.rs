//! A registry on this host: Debian's `docker-registry`.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// How long the registry may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The port is chosen before the registry binds it, so somebody else may be faster.
const ATTEMPTS: usize = 5;

/// A running registry; killed when dropped.
#[derive(Debug)]
pub struct LocalRegistry {
    process: Child,
    address: String,
    dir: TempDir,
}

/// Who may come in, and how.
enum Access<'a> {
    Open,
    Password(&'a str),
    Tls { certificate: &'a Path, key: &'a Path },
}

impl LocalRegistry {
    /// Starts an empty registry on a free loopback port, open to everybody.
    ///
    /// # Errors
    /// When `docker-registry` (Debian: the package of that name) is missing or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with("127.0.0.1", &Access::Open)
    }

    /// The same on another address of this host.
    ///
    /// # Errors
    /// As [`LocalRegistry::start`].
    pub fn start_on(host: &str) -> Result<Self> {
        Self::start_with(host, &Access::Open)
    }

    /// A registry that asks for a user and password; `htpasswd` is a line of such a file, with a
    /// bcrypt hash.
    ///
    /// # Errors
    /// As [`LocalRegistry::start`].
    pub fn start_with_password(htpasswd: &str) -> Result<Self> {
        Self::start_with("127.0.0.1", &Access::Password(htpasswd))
    }

    /// A registry that speaks TLS with this certificate and key (PEM files). It can be reached as
    /// every name that the certificate has and that leads to loopback.
    ///
    /// # Errors
    /// As [`LocalRegistry::start`].
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Result<Self> {
        Self::start_with("127.0.0.1", &Access::Tls { certificate, key })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where the registry keeps its files.
    #[must_use]
    pub fn storage(&self) -> &Path {
        self.dir.path()
    }

    fn start_with(host: &str, access: &Access<'_>) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::try_start(host, access) {
                Ok(registry) => return Ok(registry),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    fn try_start(host: &str, access: &Access<'_>) -> Result<Self> {
        let dir = TempDir::new().context("make a directory for the registry")?;
        let port = TcpListener::bind((host, 0))?.local_addr()?.port();
        let address = format!("{host}:{port}");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {dir}/data\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n",
            dir = dir.path().display(),
        );
        match access {
            Access::Open => {}
            Access::Password(htpasswd) => {
                let file = dir.path().join("htpasswd");
                std::fs::write(&file, htpasswd)?;
                let file = file.display();
                config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {file}\n");
            }
            Access::Tls { certificate, key } => {
                let (certificate, key) = (certificate.display(), key.display());
                config += &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
            }
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config)?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log"))?)
            .spawn()
            .context("start docker-registry (Debian package docker-registry)")?;
        let mut registry = Self { process, address, dir };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                bail!("docker-registry ended with {status}: {}", log.trim());
            }
            if TcpStream::connect(&self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("docker-registry does not listen on {}", self.address)
    }
}

impl Drop for LocalRegistry {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
