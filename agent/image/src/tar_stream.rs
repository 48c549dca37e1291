//! Reads the members of a tar stream, bounded and without ambiguity.
//!
//! The `tar` crate knows the layout of the header block; the iteration is our own, for three
//! reasons found in that crate: it reads long names and PAX headers of any size into memory, it
//! splits PAX records at newlines although values (a file capability, say) may hold them, and it
//! then ignores a `size` record that follows, which makes two readers see different members (the
//! class of CVE-2025-62518). Where archives are ambiguous this follows Go's `archive/tar`, which
//! is what wrote most layers there are.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::limits::Limits;
use super::pax::{self, PaxError};

const BLOCK: u64 = 512;

/// One member's header, with its long names and PAX records applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link, else empty.
    pub link: Vec<u8>,
    pub kind: MemberKind,
    /// Permission bits including setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    /// Bytes of the body that follows.
    pub size: u64,
    pub xattrs: Vec<Xattr>,
}

/// Name and value of one extended attribute.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// Seconds since 1970, possibly negative, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mtime {
    pub seconds: i64,
    pub nanoseconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    Directory,
    HardLink,
    Symlink,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// Why a stream is not a tar archive we accept.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream under the archive failed: the network, the decompressor or the disk.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive ends inside a member.
    #[error("the archive ends in the middle of {what}")]
    Truncated {
        /// What was being read.
        what: String,
    },
    /// A header's checksum does not match its bytes.
    #[error("a header at byte {offset} has a wrong checksum")]
    Checksum {
        /// Position in the uncompressed archive.
        offset: u64,
    },
    /// A field of a header is not a number, or too large.
    #[error("entry {entry:?} has an invalid {field}")]
    Field {
        /// The member.
        entry: String,
        /// Which field.
        field: &'static str,
    },
    /// A kind of member that has no place in an image.
    #[error("entry {entry:?} is of the unsupported kind {kind:?}")]
    Kind {
        /// The member.
        entry: String,
        /// The type flag of the header.
        kind: char,
    },
    /// A sparse file, in either of GNU tar's encodings.
    #[error("entry {entry:?} is a sparse file, which image layers may not hold")]
    Sparse {
        /// The member.
        entry: String,
    },
    /// Extended headers without a member, or twice for one.
    #[error("extended headers at byte {offset} describe no single entry")]
    Dangling {
        /// Position in the uncompressed archive.
        offset: u64,
    },
    /// PAX records that cannot be read.
    #[error("the extended header at byte {offset} is malformed")]
    Pax {
        /// Position in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: PaxError,
    },
    /// An extended header beyond [`Limits::extended_header_bytes`].
    #[error("an extended header has {size} bytes, at most {limit} are accepted")]
    ExtendedTooLong {
        /// Bytes announced.
        size: u64,
        /// Bytes accepted.
        limit: u64,
    },
}

/// What extended headers said about the member to come.
#[derive(Default)]
struct Extended {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<pax::Records>,
}

/// A tar archive being read from front to back.
pub(super) struct TarStream<R> {
    reader: R,
    extended_header_bytes: u64,
    offset: u64,
    /// Bytes of the current member's body that were not read yet.
    body: u64,
    /// Zero bytes that fill the body's last block.
    padding: u64,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(reader: R, limits: &Limits) -> Self {
        let extended_header_bytes = limits.extended_header_bytes;
        Self { reader, extended_header_bytes, offset: 0, body: 0, padding: 0 }
    }

    /// The next member; its body can be read from [`TarStream::body`] until the next call.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut extended = Extended::default();
        let mut extended_any = false;
        loop {
            self.skip_body()?;
            let offset = self.offset;
            let Some(header) = self.read_header()? else {
                if extended_any {
                    return Err(TarError::Dangling { offset });
                }
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.read_extended(&header)?;
                    set_once(&mut extended.long_name, without_nul(name), offset)?;
                }
                EntryType::GNULongLink => {
                    let link = self.read_extended(&header)?;
                    set_once(&mut extended.long_link, without_nul(link), offset)?;
                }
                EntryType::XHeader => {
                    let bytes = self.read_extended(&header)?;
                    let records =
                        pax::parse(&bytes).map_err(|source| TarError::Pax { offset, source })?;
                    set_once(&mut extended.pax, records, offset)?;
                }
                // Comments of `git archive`; Go does not apply them to members either.
                EntryType::XGlobalHeader => {
                    self.read_extended(&header)?;
                    continue;
                }
                _ => return self.member(&header, extended).map(Some),
            }
            extended_any = true;
        }
    }

    /// The body of the current member.
    pub(super) fn body(&mut self) -> Body<'_, R> {
        Body { stream: self }
    }

    /// Position in the uncompressed archive.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream behind the archive, for what follows the end mark.
    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    fn member(&mut self, header: &Header, extended: Extended) -> Result<Member, TarError> {
        let mut pax = extended.pax.unwrap_or_default();
        let path = extended
            .long_name
            .or(pax.path.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extended.long_link.or(pax.link.take()).unwrap_or_else(|| {
            header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
        });
        let fields = Fields { header, path: &path };
        if pax.sparse || header.entry_type() == EntryType::GNUSparse {
            return Err(TarError::Sparse { entry: fields.name() });
        }
        let kind = fields.kind()?;
        let size = match pax.size {
            Some(size) => size,
            None => fields.unsigned(&header.as_old().size, "size")?,
        };
        // Only files have a body, whatever the size of others says (Go's archive/tar).
        let size = if kind == MemberKind::File { size } else { 0 };
        let uid = match pax.uid {
            Some(uid) => uid,
            None => fields.unsigned(&header.as_old().uid, "owner")?,
        };
        let gid = match pax.gid {
            Some(gid) => gid,
            None => fields.unsigned(&header.as_old().gid, "group")?,
        };
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => {
                Mtime { seconds: fields.signed(&header.as_old().mtime, "mtime")?, nanoseconds: 0 }
            }
        };
        let mode = fields.unsigned(&header.as_old().mode, "mode")? & 0o7777;
        let member = Member {
            link: if matches!(kind, MemberKind::HardLink | MemberKind::Symlink) {
                link
            } else {
                Vec::new()
            },
            kind,
            mode: u32::try_from(mode).unwrap_or_default(),
            uid: fields.id(uid, "owner")?,
            gid: fields.id(gid, "group")?,
            mtime,
            size,
            xattrs: pax.xattrs,
            path,
        };
        self.expect_body(size);
        Ok(member)
    }

    /// The next header, or nothing at the end mark (two blocks of zeros) or the end of the stream.
    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let offset = self.offset;
        if !self.read_block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            if !self.read_block(header.as_mut_bytes())?
                || header.as_bytes().iter().all(|byte| *byte == 0)
            {
                return Ok(None);
            }
            return Err(TarError::Checksum { offset });
        }
        let bytes = header.as_bytes();
        let sum: u64 = bytes[..148].iter().chain(&bytes[156..]).map(|b| u64::from(*b)).sum();
        let stored = number(&header.as_old().cksum).and_then(|sum| u64::try_from(sum).ok());
        if stored != Some(sum + 8 * u64::from(b' ')) {
            return Err(TarError::Checksum { offset });
        }
        Ok(Some(header))
    }

    /// Fills one block; `false` when the stream ended before it.
    fn read_block(&mut self, block: &mut [u8]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated { what: "a header".to_owned() }),
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(true)
    }

    fn read_extended(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let fields = Fields { header, path: b"(extended header)" };
        let size = fields.unsigned(&header.as_old().size, "size")?;
        let limit = self.extended_header_bytes;
        if size > limit {
            return Err(TarError::ExtendedTooLong { size, limit });
        }
        self.expect_body(size);
        let mut bytes = Vec::new();
        self.body().read_to_end(&mut bytes).map_err(TarError::Read)?;
        if bytes.len() as u64 != size {
            return Err(TarError::Truncated { what: "an extended header".to_owned() });
        }
        Ok(bytes)
    }

    fn expect_body(&mut self, size: u64) {
        self.body = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn skip_body(&mut self) -> Result<(), TarError> {
        let mut rest = self.body.saturating_add(self.padding);
        let mut scratch = [0_u8; 8192];
        while rest > 0 {
            let want = usize::try_from(rest).unwrap_or(usize::MAX).min(scratch.len());
            match self.reader.read(&mut scratch[..want]) {
                // The padding of the last member may be missing; many writers leave it out.
                Ok(0) if rest <= self.padding => break,
                Ok(0) => return Err(TarError::Truncated { what: "a file".to_owned() }),
                Ok(count) => {
                    rest -= count as u64;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        self.body = 0;
        self.padding = 0;
        Ok(())
    }
}

/// Reads the body of the current member and no more.
pub(super) struct Body<'a, R> {
    stream: &'a mut TarStream<R>,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.stream.body).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.stream.reader.read(&mut buffer[..want])?;
        self.stream.body -= count as u64;
        self.stream.offset += count as u64;
        Ok(count)
    }
}

/// The numeric fields of one header, with errors that name the member.
struct Fields<'a> {
    header: &'a Header,
    path: &'a [u8],
}

impl Fields<'_> {
    fn name(&self) -> String {
        String::from_utf8_lossy(self.path).into_owned()
    }

    fn invalid(&self, field: &'static str) -> TarError {
        TarError::Field { entry: self.name(), field }
    }

    fn signed(&self, bytes: &[u8], field: &'static str) -> Result<i64, TarError> {
        number(bytes).ok_or_else(|| self.invalid(field))
    }

    fn unsigned(&self, bytes: &[u8], field: &'static str) -> Result<u64, TarError> {
        self.signed(bytes, field)
            .and_then(|value| u64::try_from(value).map_err(|_| self.invalid(field)))
    }

    /// The kernel reads the largest id as "leave as it is", so it is none.
    fn id(&self, value: u64, field: &'static str) -> Result<u32, TarError> {
        match u32::try_from(value) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(self.invalid(field)),
        }
    }

    fn kind(&self) -> Result<MemberKind, TarError> {
        Ok(match self.header.entry_type().as_byte() {
            // Before POSIX a directory was a file with a slash at the end of its name.
            0 if self.path.ends_with(b"/") => MemberKind::Directory,
            0 | b'0' | b'7' => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' => {
                let (major, minor) = self.device()?;
                MemberKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = self.device()?;
                MemberKind::BlockDevice { major, minor }
            }
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => return Err(TarError::Kind { entry: self.name(), kind: char::from(other) }),
        })
    }

    fn device(&self) -> Result<(u32, u32), TarError> {
        let ustar = self.header.as_ustar().map(|h| (&h.dev_major, &h.dev_minor));
        let gnu = self.header.as_gnu().map(|h| (&h.dev_major, &h.dev_minor));
        let (major, minor) = ustar.or(gnu).ok_or_else(|| self.invalid("device number"))?;
        let narrow = |value: u64| u32::try_from(value).map_err(|_| self.invalid("device number"));
        Ok((
            narrow(self.unsigned(major, "device number")?)?,
            narrow(self.unsigned(minor, "device number")?)?,
        ))
    }
}

/// Octal digits with blanks or NULs around them (nothing at all is zero), or the base-256 form of
/// GNU tar, which has the top bit set.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return base_256(field);
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches([' ', '\0']);
    if text.is_empty() {
        return Some(0);
    }
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return None;
    }
    i64::from_str_radix(text, 8).ok()
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = if index == 0 && !negative { byte & 0x7f } else { *byte };
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
    }
    i64::try_from(value).ok()
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn set_once<T>(slot: &mut Option<T>, value: T, offset: u64) -> Result<(), TarError> {
    if slot.is_some() {
        return Err(TarError::Dangling { offset });
    }
    *slot = Some(value);
    Ok(())
}

#[cfg(test)]
mod tests;
