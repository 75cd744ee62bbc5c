//! Rows that wait on disk: Arrow IPC, compressed with LZ4, in files without a name that vanish
//! with the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{Field, Schema, SchemaRef};
use highwater_core::{Error, Result};

/// When a file has this size, the next rows begin another one. A file goes when its last rows
/// were taken back, so this is also what may lie idle on the disk.
const FILE_BYTES: u64 = 256 << 20;

/// The files. Rows come back in any order.
#[derive(Debug, Default)]
pub(super) struct Spill {
    current: Option<Arc<File>>,
    end: u64,
}

/// Where rows wait.
#[derive(Debug)]
pub(super) struct Place {
    file: Arc<File>,
    at: u64,
    bytes: usize,
    /// What the rows have to look like when they come back.
    schema: SchemaRef,
}

impl Spill {
    /// Writes rows.
    ///
    /// # Errors
    /// `Transient` when the disk does not take them.
    pub(super) fn put(&mut self, rows: &RecordBatch) -> Result<Place> {
        let bytes = encoded(rows)?;
        let (file, at) = self.room()?;
        file.write_all_at(&bytes, at).map_err(|e| not_kept(&e))?;
        self.end = at + bytes.len() as u64;
        Ok(Place { file, at, bytes: bytes.len(), schema: rows.schema() })
    }

    /// The file to write to, and where.
    fn room(&mut self) -> Result<(Arc<File>, u64)> {
        if let Some(file) = &self.current {
            if Arc::strong_count(file) == 1 {
                // Nothing in it waits any more.
                file.set_len(0).map_err(|e| not_kept(&e))?;
                self.end = 0;
            }
            if self.end < FILE_BYTES {
                return Ok((Arc::clone(file), self.end));
            }
        }
        let file = Arc::new(tempfile::tempfile().map_err(|e| not_kept(&e))?);
        self.current = Some(Arc::clone(&file));
        Ok((file, 0))
    }
}

impl Place {
    /// The room that the rows take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the rows back.
    ///
    /// # Errors
    /// `Transient` when the disk does not give them back.
    pub(super) fn take(self) -> Result<RecordBatch> {
        let mut bytes = vec![0; self.bytes];
        self.file.read_exact_at(&mut bytes, self.at).map_err(|e| not_kept(&e))?;
        let mut reader = StreamReader::try_new(bytes.as_slice(), None)?;
        let rows = reader.next().ok_or_else(|| Error::internal("Rows on disk are gone"))??;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(self.schema, columns, &options)?)
    }
}

/// One IPC stream with one batch. Metadata stays here: a stream's description may be large.
fn encoded(rows: &RecordBatch) -> Result<Vec<u8>> {
    let plain = rows
        .schema_ref()
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), field.is_nullable()));
    let schema = Arc::new(Schema::new(plain.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let columns = rows.columns().to_vec();
    let plain = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)?;
    writer.write(&plain)?;
    Ok(writer.into_inner()?)
}

fn not_kept(error: &io::Error) -> Error {
    Error::transient("Rows that wait for their state could not be kept on disk")
        .context("folder", std::env::temp_dir().display())
        .context("cause", error)
        .hint("free space there, or set TMPDIR to a folder that has some")
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::DataType;
    use highwater_core::types::{JSON, extension_field};

    use super::*;

    fn rows(from: i64, count: i64) -> RecordBatch {
        let fields = vec![
            Field::new("id", DataType::Int64, true),
            extension_field("doc", DataType::Utf8, JSON),
        ];
        let metadata = [("airbyte:stream".to_owned(), "{}".to_owned())].into();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let ids: Int64Array = (from..from + count).collect();
        let docs: StringArray = (0..count).map(|n| (n % 3 > 0).then(|| n.to_string())).collect();
        RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(docs)]).unwrap()
    }

    #[test]
    fn rows_come_back_as_they_were_with_the_metadata_of_their_schema() {
        let mut spill = Spill::default();
        let (first, second) = (rows(1, 1000), rows(5000, 3));
        let (at_first, at_second) = (spill.put(&first).unwrap(), spill.put(&second).unwrap());
        assert_eq!(at_second.take().unwrap(), second);
        assert_eq!(at_first.take().unwrap(), first);
    }

    #[test]
    fn the_room_of_rows_that_were_taken_back_is_used_again() {
        let mut spill = Spill::default();
        let place = spill.put(&rows(1, 1000)).unwrap();
        let file = Arc::clone(&place.file);
        place.take().unwrap();
        let before = file.metadata().unwrap().len();
        drop(file);
        let place = spill.put(&rows(1, 1000)).unwrap();
        assert_eq!((place.at, place.file.metadata().unwrap().len()), (0, before));
    }
}
