//! Writes a Parquet file row group by row group.
//!
//! A dictionary makes columns of few different values small, and costs a look-up per value. Where
//! there are too many values the format gives the dictionary up in the middle of a row group, and
//! the look-ups were for nothing. So what the first row group shows decides for those after it:
//! a column whose dictionary was given up is written without one.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Encoding, PageType, Type};
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

/// A row group ends when its encoded columns take so much memory.
pub(crate) const MEMORY_BYTES: usize = 24 << 20;
/// A dictionary of numbers is given up at this size: with a number in four different, no index is
/// much shorter than the number, and a larger table of them no longer fits into the caches.
const NUMBERS_BYTES: usize = 256 << 10;

/// A Parquet file that is being written.
pub(crate) struct RowGroups<W: Write + Send> {
    file: SerializedFileWriter<W>,
    schema: SchemaRef,
    factory: ArrowRowGroupWriterFactory,
    rows_max: usize,
    /// The columns of the open row group, and its rows.
    columns: Vec<ArrowColumnWriter>,
    rows: usize,
}

impl<W: Write + Send> RowGroups<W> {
    /// A file of columns of `schema`, with at most `rows_max` rows in a row group.
    pub(crate) fn new(
        out: W,
        schema: SchemaRef,
        properties: WriterProperties,
        rows_max: usize,
    ) -> Result<Self> {
        let parquet = ArrowSchemaConverter::new().convert(&schema)?;
        let mut builder = properties.into_builder();
        for column in parquet.columns() {
            if !matches!(column.physical_type(), Type::BYTE_ARRAY) {
                let path = column.path().clone();
                builder = builder.set_column_dictionary_page_size_limit(path, NUMBERS_BYTES);
            }
        }
        let mut properties = builder.build();
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let root = parquet.root_schema_ptr();
        let file = SerializedFileWriter::new(out, root, Arc::new(properties))?;
        let factory = ArrowRowGroupWriterFactory::new(&file, schema.clone());
        Ok(Self { file, schema, factory, rows_max, columns: Vec::new(), rows: 0 })
    }

    /// Adds rows.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let mut rest = rows.clone();
        while rest.num_rows() > 0 {
            let taken = rest.num_rows().min(self.rows_max - self.rows);
            self.add(&rest.slice(0, taken))?;
            rest = rest.slice(taken, rest.num_rows() - taken);
            let memory: usize = self.columns.iter().map(ArrowColumnWriter::memory_size).sum();
            if self.rows >= self.rows_max || memory >= MEMORY_BYTES {
                self.end_group()?;
            }
        }
        Ok(())
    }

    fn add(&mut self, rows: &RecordBatch) -> Result<()> {
        if self.columns.is_empty() {
            self.columns = self.factory.create_column_writers(self.groups())?;
        }
        let mut writers = self.columns.iter_mut();
        for (field, column) in self.schema.fields().iter().zip(rows.columns()) {
            for leaf in compute_leaves(field, column)? {
                if let Some(writer) = writers.next() {
                    writer.write(&leaf)?;
                }
            }
        }
        self.rows += rows.num_rows();
        Ok(())
    }

    fn groups(&self) -> usize {
        self.file.flushed_row_groups().len()
    }

    fn end_group(&mut self) -> Result<()> {
        if self.columns.is_empty() {
            return Ok(());
        }
        let is_first = self.groups() == 0;
        let mut group = self.file.next_row_group()?;
        for column in std::mem::take(&mut self.columns) {
            column.close()?.append_to_row_group(&mut group)?;
        }
        let written = group.close()?;
        self.rows = 0;
        if is_first { self.learn(&written) } else { Ok(()) }
    }

    /// Gives up the dictionaries that did not last through a row group.
    fn learn(&mut self, group: &RowGroupMetaData) -> Result<()> {
        let properties = self.file.properties().as_ref().clone();
        let mut builder = properties.into_builder();
        for column in group.columns().iter().filter(|column| has_given_up(column)) {
            builder = builder.set_column_dictionary_enabled(column.column_path().clone(), false);
        }
        // The properties of a row group's columns are taken from a file, which is this one's twin.
        let root = self.file.schema_descr().root_schema_ptr();
        let twin = SerializedFileWriter::new(io::sink(), root, Arc::new(builder.build()))?;
        self.factory = ArrowRowGroupWriterFactory::new(&twin, self.schema.clone());
        Ok(())
    }

    /// Completes the file.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.end_group()?;
        self.file.into_inner()
    }
}

/// Whether pages of the column are without its dictionary.
fn has_given_up(column: &ColumnChunkMetaData) -> bool {
    let dictionary =
        |encoding| matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
    let mut pages = column.page_encoding_stats().into_iter().flatten();
    pages.any(|pages| {
        matches!(pages.page_type, PageType::DATA_PAGE | PageType::DATA_PAGE_V2)
            && !dictionary(pages.encoding)
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::file::metadata::ParquetMetaData;

    use super::*;

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        let key: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
        let some = rows.clone().map(|i| (i % 5 != 0).then_some(i % 3));
        let few: ArrayRef = Arc::new(Int64Array::from_iter(some));
        let texts = rows.clone().map(|i| format!("a text that is there once, {i:>20}"));
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let word: ArrayRef = Arc::new(StringArray::from_iter_values(rows.map(|_| "word")));
        let columns = [("key", key), ("few", few), ("text", text), ("word", word)];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn written(batches: &[RecordBatch], rows_max: usize) -> Vec<u8> {
        let properties = WriterProperties::builder().build();
        let schema = batches[0].schema();
        let mut file = RowGroups::new(Vec::new(), schema, properties, rows_max).unwrap();
        batches.iter().for_each(|batch| file.write(batch).unwrap());
        file.finish().unwrap()
    }

    fn read(bytes: Vec<u8>) -> (Arc<ParquetMetaData>, Vec<RecordBatch>) {
        let bytes = parquet_bytes(bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let metadata = reader.metadata().clone();
        (metadata, reader.build().unwrap().map(|batch| batch.unwrap()).collect())
    }

    fn parquet_bytes(bytes: Vec<u8>) -> std::fs::File {
        use std::io::Seek;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn row_groups_have_at_most_so_many_rows_and_every_row_is_there_once() {
        let batches = [batch(0..7), batch(7..7), batch(7..30), batch(30..31)];
        let (metadata, read) = read(written(&batches, 10));
        let groups = metadata.row_groups().iter().map(RowGroupMetaData::num_rows);
        assert_eq!(groups.collect::<Vec<_>>(), [10, 10, 10, 1]);
        let key = |batch: &RecordBatch| batch["key"].as_primitive::<Int64Type>().values().to_vec();
        let keys: Vec<i64> = read.iter().flat_map(key).collect();
        assert_eq!(keys, (0..31).collect::<Vec<_>>());
        let few = read.iter().flat_map(|b| b["few"].as_primitive::<Int64Type>().iter());
        let expected = (0..31).map(|i| (i % 5 != 0).then_some(i % 3));
        assert!(few.eq(expected));
    }

    #[test]
    fn a_file_without_rows_has_columns() {
        let (metadata, read) = read(written(&[batch(0..0)], 10));
        assert_eq!((metadata.num_row_groups(), read.len()), (0, 0));
        assert_eq!(metadata.file_metadata().schema_descr().num_columns(), 4);
    }

    #[test]
    fn a_dictionary_that_was_given_up_is_not_tried_again() {
        let batches = [batch(0..50_000), batch(50_000..100_000)];
        let (metadata, read) = read(written(&batches, 50_000));
        let dictionaries = |group: usize| {
            let columns = metadata.row_group(group).columns().iter();
            columns.map(|c| c.dictionary_page_offset().is_some()).collect::<Vec<_>>()
        };
        assert_eq!(dictionaries(0), [true, true, true, true]);
        assert_eq!(dictionaries(1), [false, true, false, true]);
        let texts = read.iter().flat_map(|b| b["text"].as_string::<i32>().iter().flatten());
        let expected = (0..100_000).map(|i| format!("a text that is there once, {i:>20}"));
        assert!(texts.eq(expected));
    }

    #[test]
    fn wide_rows_end_a_row_group_by_their_memory() {
        let wide = |i: u64| {
            // Neither a dictionary nor a codec helps.
            let noise = (0..8_192u64).map(|j| {
                char::from(33 + ((i * 8_192 + j).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as u8)
            });
            noise.collect::<String>()
        };
        let batches: Vec<RecordBatch> = (0..10)
            .map(|nth| {
                let texts = (nth * 1_024..(nth + 1) * 1_024).map(wide);
                let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
                RecordBatch::try_from_iter([("text", text)]).unwrap()
            })
            .collect();
        let (metadata, _) = read(written(&batches, usize::MAX));
        let sizes = metadata.row_groups().iter().map(|g| g.total_byte_size() as usize);
        // 80 MiB in all: each row group is of the memory that is allowed, and a batch.
        assert!(metadata.num_row_groups() >= 2);
        assert!(sizes.into_iter().all(|size| size <= MEMORY_BYTES + (9 << 20)));
    }
}
