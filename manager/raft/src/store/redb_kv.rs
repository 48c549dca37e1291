//! [`Kv`] on redb: one file, one transaction per batch, one disk barrier per transaction.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition,
};

use super::kv::{Change, Kv, KvError};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("log");
/// Page cache. The log is read at its end, which is also kept decoded (see `tail`).
const CACHE_BYTES: usize = 2 << 20;

pub(crate) struct RedbKv {
    database: Database,
}

impl RedbKv {
    pub(crate) fn open(path: &Path) -> Result<Self, KvError> {
        let failed =
            |source: io::Error| KvError::Open { path: path.to_owned(), source: source.into() };
        if !path.try_exists().map_err(failed)? {
            Self::make(path)?;
        }
        // Also after a crash right behind the rename.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all()).map_err(failed)?;
        Self::opened(path, builder().open(path))
    }

    /// Makes an empty database aside, so that one that was half made is never opened.
    fn make(path: &Path) -> Result<(), KvError> {
        let failed =
            |source: io::Error| KvError::Open { path: path.to_owned(), source: source.into() };
        let aside = path.with_extension("new");
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        drop(Self::opened(&aside, builder().create(&aside))?);
        fs::rename(&aside, path).map_err(failed)
    }

    /// Opens a database that is not in a file.
    #[cfg(test)]
    pub(crate) fn on(backend: impl redb::StorageBackend) -> Result<Self, KvError> {
        Self::opened(Path::new("memory"), builder().create_with_backend(backend))
    }

    fn opened(path: &Path, database: Result<Database, DatabaseError>) -> Result<Self, KvError> {
        let database = database
            .map_err(|error| KvError::Open { path: path.to_owned(), source: error.into() })?;
        let kv = Self { database };
        // The table must exist before the first read.
        kv.commit(Vec::new())?;
        Ok(kv)
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn read_error(error: impl Into<redb::Error>) -> KvError {
    KvError::Read(Box::new(error.into()))
}

fn write_error(error: impl Into<redb::Error>) -> KvError {
    KvError::Write(Box::new(error.into()))
}

impl Kv for RedbKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let transaction = self.database.begin_read().map_err(read_error)?;
        let table = transaction.open_table(TABLE).map_err(read_error)?;
        let value = table.get(key).map_err(read_error)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn for_each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), KvError> {
        let transaction = self.database.begin_read().map_err(read_error)?;
        let table = transaction.open_table(TABLE).map_err(read_error)?;
        for item in table.iter().map_err(read_error)? {
            let (key, value) = item.map_err(read_error)?;
            // Damage to an inner page spoils the way down to a key, not the way along.
            let found = table.get(key.value()).map_err(read_error)?;
            if found.is_none_or(|found| found.value() != value.value()) {
                let key = key.value();
                return Err(KvError::Read(format!("key {key:02x?} is not found").into()));
            }
            visit(key.value(), value.value());
        }
        Ok(())
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), KvError> {
        let transaction = self.database.begin_write().map_err(write_error)?;
        {
            let mut table = transaction.open_table(TABLE).map_err(write_error)?;
            for change in changes {
                match change {
                    Change::Put(key, value) => {
                        table.insert(key.as_slice(), value.as_slice()).map_err(write_error)?;
                    }
                    Change::Remove(key) => {
                        table.remove(key.as_slice()).map_err(write_error)?;
                    }
                }
            }
        }
        // redb's default durability: the barrier has passed when this returns.
        transaction.commit().map_err(write_error)
    }
}
