//! One column per Arrow type that highwater carries, with NULLs and extremes.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Int16Builder, Int32Builder, Int64Builder, LargeListBuilder, ListBuilder,
    MapBuilder, StringBuilder,
};
use arrow_array::types::*;
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BinaryViewArray, BooleanArray,
    FixedSizeBinaryArray, Int64Array, LargeBinaryArray, LargeStringArray, NullArray,
    PrimitiveArray, RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, NullBuffer, i256};
use arrow_schema::{DataType, Field, IntervalUnit, TimeUnit};
use highwater_core::types::{DECLARED, EXTENSION, JSON, NUMERIC, UUID};
use highwater_core::{Table, TableName};

use super::{Random, Sample};

/// Rows that hold at least all extremes of every column.
pub const EVERY_EXTREME: usize = 16;

/// A table with the primary key `id` and one column per Arrow type of
/// [`highwater_core::types`], named after the type. The first rows hold the extremes (some are
/// NULL), the others what `seed` makes of them; [`EVERY_EXTREME`] rows hold all extremes.
///
/// Only values that every system has to keep are in it. What a system may refuse (NaN, NUL,
/// nanoseconds of an interval) is in the suite of types, case by case.
pub fn every_type(rows: usize, seed: u64) -> Sample {
    let mut columns =
        Columns { fields: Vec::new(), arrays: Vec::new(), rows, random: Random::new(seed) };
    let ids = Int64Array::from_iter_values(1..=rows as i64);
    columns.push(Field::new("id", DataType::Int64, false), Arc::new(ids));
    columns.numbers();
    columns.decimals();
    columns.texts();
    columns.bytes();
    columns.dates_and_times();
    columns.spans();
    columns.lists();
    columns.nested();
    let Columns { fields, arrays, .. } = columns;
    let table = Table::new(TableName::new("every_type"), fields).with_primary_key(["id"]);
    let batch = RecordBatch::try_new(Arc::clone(&table.schema), arrays);
    Sample { table, rows: batch.expect("rows fit their table") }
}

const TEXTS: [&str; 12] = [
    "",
    " ",
    "  spaces around  ",
    "NULL",
    "\\N",
    "\\.",
    "a,b;\"c\" 'd' \\ e\\n",
    "line\nbreak\r\nand\ttab",
    "🦀 é ß 汉字 \u{202e}",
    "\u{1}\u{7f}\u{ffff}",
    "007",
    "{\"json\": [1, 2]}",
];

const JSON_TEXTS: [&str; 8] = [
    "{\"b\": 1,  \"a\": [1.50, 1e400, \"\\u00e9\\\"\"], \"a\": null}",
    "null",
    "\"\"",
    "[]",
    "{}",
    "12345678901234567890.12345678901234567890",
    "[{\"deep\": {\"deeper\": [null, true, false]}}]",
    "\"\\\\ \\n 🦀\"",
];

const NUMERIC_TEXTS: [&str; 9] = [
    "0",
    "1.50",
    "-1.500",
    "123456789012345678901234567890123456789012345678901234567890.000000000000000000001",
    "-0.000000000000000000000000000000000000000000000001",
    "99999999999999999999999999999999999999999999999999999999999999999999999999999999",
    "NaN",
    "100",
    "-7",
];

/// 0001-01-01 and 9999-12-31, in days.
const FIRST_DAY: i64 = -719_162;
const LAST_DAY: i64 = 2_932_896;
const DAY_SECONDS: i64 = 86_400;
const DAY_NANOSECONDS: i64 = DAY_SECONDS * 1_000_000_000;

struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
    rows: usize,
    random: Random,
}

impl Columns {
    fn push(&mut self, field: Field, array: ArrayRef) {
        assert_eq!(field.data_type(), array.data_type(), "{}", field.name());
        self.fields.push(field);
        self.arrays.push(array);
    }

    fn plain(&mut self, name: &str, array: ArrayRef) {
        self.push(Field::new(name, array.data_type().clone(), true), array);
    }

    fn with_metadata(&mut self, name: &str, array: ArrayRef, key: &str, value: &str) {
        let metadata = [(key.to_owned(), value.to_owned())].into();
        let field = Field::new(name, array.data_type().clone(), true).with_metadata(metadata);
        self.push(field, array);
    }

    /// The value of each row: the extremes, one NULL, then what `make` makes; some more NULLs.
    fn values<T: Clone>(
        &mut self,
        extremes: &[T],
        mut make: impl FnMut(&mut Random) -> T,
    ) -> Vec<Option<T>> {
        assert!(extremes.len() < EVERY_EXTREME, "more extremes than rows");
        (0..self.rows)
            .map(|row| match extremes.get(row) {
                Some(extreme) => Some(extreme.clone()),
                None if row == extremes.len() || self.random.below(8) == 0 => None,
                None => Some(make(&mut self.random)),
            })
            .collect()
    }

    fn primitive<T: ArrowPrimitiveType>(
        &mut self,
        name: &str,
        data_type: DataType,
        extremes: &[T::Native],
        make: impl FnMut(&mut Random) -> T::Native,
    ) {
        let values = self.values(extremes, make);
        let array = PrimitiveArray::<T>::from_iter(values).with_data_type(data_type);
        self.plain(name, Arc::new(array));
    }

    fn numbers(&mut self) {
        let booleans = self.values(&[true, false], |r| r.below(2) == 1);
        self.plain("boolean", Arc::new(BooleanArray::from(booleans)));
        macro_rules! integers {
            ($($name:literal $arrow:ident $native:ty;)*) => {$(
                self.primitive::<$arrow>(
                    $name,
                    $arrow::DATA_TYPE,
                    &[<$native>::MIN, <$native>::MAX, 0, 1],
                    |r| r.next() as $native,
                );
            )*};
        }
        integers! {
            "int8" Int8Type i8;
            "int16" Int16Type i16;
            "int32" Int32Type i32;
            "int64" Int64Type i64;
            "uint8" UInt8Type u8;
            "uint16" UInt16Type u16;
            "uint32" UInt32Type u32;
            "uint64" UInt64Type u64;
        }
        type Half = <Float16Type as ArrowPrimitiveType>::Native;
        let halves = [0.0, 1.5, -65_504.0, 65_504.0, 6e-8].map(Half::from_f32);
        self.primitive::<Float16Type>("float16", DataType::Float16, &halves, |r| {
            Half::from_f32(r.below(1000) as f32 / 8.0)
        });
        let infinity = f32::INFINITY;
        let singles = [0.0, 0.1, f32::MIN, f32::MAX, f32::MIN_POSITIVE, 1e-45, infinity, -infinity];
        self.primitive::<Float32Type>("float32", DataType::Float32, &singles, |r| {
            r.next() as f32 / 1e9
        });
        let infinity = f64::INFINITY;
        let doubles = [
            0.0,
            0.1,
            f64::MIN,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            infinity,
            -infinity,
            1e15,
            9_007_199_254_740_993.0,
        ];
        self.primitive::<Float64Type>("float64", DataType::Float64, &doubles, |r| {
            r.next() as f64 / 1e9
        });
    }

    fn decimals(&mut self) {
        let most = 999_999_999;
        self.primitive::<Decimal32Type>(
            "decimal32",
            DataType::Decimal32(9, 2),
            &[0, most, -most, 150],
            |r| r.below(1_000_000) as i32,
        );
        let most = 10_i64.pow(18) - 1;
        self.primitive::<Decimal64Type>(
            "decimal64",
            DataType::Decimal64(18, 6),
            &[0, most, -most, 1_500_000],
            |r| r.below(1 << 58) as i64,
        );
        let most = 10_i128.pow(38) - 1;
        self.primitive::<Decimal128Type>(
            "decimal128",
            DataType::Decimal128(38, 10),
            &[0, most, -most, 15_000_000_000, -1],
            |r| i128::from(r.next()) * 1_000_003,
        );
        let most = i256::from_string(&"9".repeat(76)).expect("76 digits");
        self.primitive::<Decimal256Type>(
            "decimal256",
            DataType::Decimal256(76, 20),
            &[i256::ZERO, most, -most, i256::ONE],
            |r| i256::from_i128(i128::from(r.next()) << 60),
        );
        let numerics = self.values(&NUMERIC_TEXTS, |r| NUMERIC_TEXTS[r.below(9) as usize]);
        let array = Arc::new(StringArray::from(numerics));
        self.with_metadata("numeric", array, EXTENSION, NUMERIC);
    }

    fn texts(&mut self) {
        let pick = |r: &mut Random| TEXTS[r.below(12) as usize];
        let values = self.values(&TEXTS, pick);
        self.plain("utf8", Arc::new(StringArray::from(values)));
        let values = self.values(&TEXTS, pick);
        self.plain("large_utf8", Arc::new(LargeStringArray::from(values)));
        let values = self.values(&TEXTS, pick);
        self.plain("utf8_view", Arc::new(StringViewArray::from_iter(values)));
        let long = "long ".repeat(4_000);
        let values = self.values(&[long.as_str()], pick);
        self.plain("odd \"name\", 'quoted'; %s é", Arc::new(StringArray::from(values)));
        let values = self.values(&JSON_TEXTS, |r| JSON_TEXTS[r.below(8) as usize]);
        self.with_metadata("json", Arc::new(StringArray::from(values)), EXTENSION, JSON);
        let addresses = ["192.168.0.1", "10.0.0.0/8", "::1", "2001:db8::/32"];
        let values = self.values(&addresses, |r| addresses[r.below(4) as usize]);
        let array = Arc::new(StringArray::from(values));
        self.with_metadata("inet", array, DECLARED, "postgresql:inet");
        self.plain("nothing", Arc::new(NullArray::new(self.rows)));
    }

    fn bytes(&mut self) {
        let every_byte: Vec<u8> = (0..=255).collect();
        let extremes = [Vec::new(), vec![0], every_byte, vec![0xff; 3]];
        let make = |r: &mut Random| r.next().to_be_bytes().to_vec();
        let values = self.values(&extremes, make);
        let slices = || values.iter().map(|v| v.as_deref());
        let (binary, view) =
            (BinaryArray::from_iter(slices()), BinaryViewArray::from_iter(slices()));
        let large = LargeBinaryArray::from_iter(slices());
        self.plain("binary", Arc::new(binary));
        self.plain("large_binary", Arc::new(large));
        self.plain("binary_view", Arc::new(view));
        let fixed = self.values(&[[0; 5], [0xff; 5]], |r| {
            r.next().to_be_bytes()[..5].try_into().expect("five bytes")
        });
        let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 5);
        self.plain("fixed_size_binary", Arc::new(array.expect("five bytes each")));
        let uuids = self.values(&[[0; 16], [0xff; 16]], |r| {
            (u128::from(r.next()) << 64 | u128::from(r.next())).to_be_bytes()
        });
        let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids.into_iter(), 16);
        let array = Arc::new(array.expect("sixteen bytes each"));
        self.with_metadata("uuid", array, EXTENSION, UUID);
    }

    fn dates_and_times(&mut self) {
        let days = |r: &mut Random| FIRST_DAY + r.below((LAST_DAY - FIRST_DAY) as u64) as i64;
        let extremes = [0, -1, FIRST_DAY, LAST_DAY, i64::MAX, i64::MIN];
        let narrow =
            |day: i64| i32::try_from(day).unwrap_or(if day > 0 { i32::MAX } else { i32::MIN });
        self.primitive::<Date32Type>("date32", DataType::Date32, &extremes.map(narrow), |r| {
            narrow(days(r))
        });
        let millis = |day: i64| day.checked_mul(DAY_SECONDS * 1000).unwrap_or(day);
        self.primitive::<Date64Type>(
            "date64",
            DataType::Date64,
            &extremes[..4].iter().map(|d| millis(*d)).collect::<Vec<_>>(),
            |r| millis(days(r)),
        );
        let last = DAY_SECONDS as i32 - 1;
        let unit = TimeUnit::Second;
        self.primitive::<Time32SecondType>("time32_s", DataType::Time32(unit), &[0, last], |r| {
            r.below(86_400) as i32
        });
        let unit = TimeUnit::Millisecond;
        let last = DAY_SECONDS as i32 * 1000 - 1;
        self.primitive::<Time32MillisecondType>(
            "time32_ms",
            DataType::Time32(unit),
            &[0, last, 1],
            |r| r.below(86_400_000) as i32,
        );
        let last = DAY_SECONDS * 1_000_000 - 1;
        let unit = TimeUnit::Microsecond;
        self.primitive::<Time64MicrosecondType>(
            "time64_us",
            DataType::Time64(unit),
            &[0, last, 1],
            |r| r.below(86_400_000_000) as i64,
        );
        let last = DAY_SECONDS * 1_000_000_000 - 1;
        let unit = TimeUnit::Nanosecond;
        self.primitive::<Time64NanosecondType>(
            "time64_ns",
            DataType::Time64(unit),
            &[0, last, 1],
            |r| r.below(86_400_000_000_000) as i64,
        );
        for zone in [None, Some(Arc::<str>::from("UTC"))] {
            let suffix = if zone.is_some() { "_utc" } else { "" };
            self.timestamps::<TimestampSecondType>(&format!("timestamp_s{suffix}"), 1, &zone);
            self.timestamps::<TimestampMillisecondType>(
                &format!("timestamp_ms{suffix}"),
                1_000,
                &zone,
            );
            let per_second = 1_000_000;
            self.timestamps::<TimestampMicrosecondType>(
                &format!("timestamp_us{suffix}"),
                per_second,
                &zone,
            );
            self.timestamps::<TimestampNanosecondType>(
                &format!("timestamp_ns{suffix}"),
                1_000_000_000,
                &zone,
            );
        }
    }

    fn timestamps<T: ArrowTimestampType>(
        &mut self,
        name: &str,
        per_second: i64,
        zone: &Option<Arc<str>>,
    ) {
        // Nanoseconds do not reach so far: their first whole day is one of 1677.
        let first = FIRST_DAY.checked_mul(DAY_SECONDS * per_second);
        let first = first.unwrap_or(i64::MIN / DAY_NANOSECONDS * DAY_NANOSECONDS);
        let end = (LAST_DAY + 1).checked_mul(DAY_SECONDS * per_second).unwrap_or(i64::MAX);
        let extremes = [0, -1, 1, first, end - 1, i64::MAX, i64::MIN];
        self.primitive::<T>(name, DataType::Timestamp(T::UNIT, zone.clone()), &extremes, |r| {
            // Between 1939 and 2001, with all digits of the fraction.
            (r.below(2_000_000_000 * per_second as u64)) as i64 - 1_000_000_000 * per_second
        });
    }

    fn spans(&mut self) {
        // Two hundred years, in whole microseconds.
        const MOST_SECONDS: i64 = 200 * 365 * DAY_SECONDS;
        macro_rules! durations {
            ($($name:literal $arrow:ident $unit:ident $per_second:literal $step:literal;)*) => {$(
                let most = MOST_SECONDS * $per_second;
                let data_type = DataType::Duration(TimeUnit::$unit);
                self.primitive::<$arrow>($name, data_type, &[0, $step, -$step, most, -most], |r| {
                    r.below(1_000_000) as i64 * $step
                });
            )*};
        }
        durations! {
            "duration_s" DurationSecondType Second 1 1;
            "duration_ms" DurationMillisecondType Millisecond 1_000 1;
            "duration_us" DurationMicrosecondType Microsecond 1_000_000 1;
            "duration_ns" DurationNanosecondType Nanosecond 1_000_000_000 1_000;
        }
        let data_type = DataType::Interval(IntervalUnit::YearMonth);
        self.primitive::<IntervalYearMonthType>(
            "interval_ym",
            data_type,
            &[0, 1, -1, 14, -2_400],
            |r| r.below(1_000) as i32,
        );
        let day_time = |days, milliseconds| IntervalDayTime { days, milliseconds };
        let extremes = [day_time(0, 0), day_time(400, -1), day_time(-1, 86_400_000)];
        let data_type = DataType::Interval(IntervalUnit::DayTime);
        self.primitive::<IntervalDayTimeType>("interval_dt", data_type, &extremes, |r| {
            day_time(r.below(1_000) as i32, r.below(1_000) as i32)
        });
        let parts = |months, days, nanoseconds| IntervalMonthDayNano { months, days, nanoseconds };
        let extremes = [
            parts(0, 0, 0),
            parts(14, -3, 14_405_000_006_000),
            parts(-1, 31, -1_000),
            parts(2_400, 100_000, MOST_SECONDS * 1_000_000_000),
        ];
        let data_type = DataType::Interval(IntervalUnit::MonthDayNano);
        self.primitive::<IntervalMonthDayNanoType>("interval_mdn", data_type, &extremes, |r| {
            parts(r.below(100) as i32, r.below(100) as i32, r.below(1_000_000) as i64 * 1_000)
        });
    }

    fn lists(&mut self) {
        let extremes = [vec![], vec![None], vec![Some(i32::MIN), None, Some(i32::MAX)]];
        let rows = self.values(&extremes, |r| vec![Some(r.next() as i32); r.below(4) as usize]);
        let mut builder = ListBuilder::new(Int32Builder::new());
        rows.into_iter().for_each(|row| builder.append_option(row));
        self.plain("list_int32", Arc::new(builder.finish()));

        let every: Vec<_> = TEXTS.iter().copied().map(Some).chain([None]).collect();
        let rows = self.values(&[vec![], every], |r| vec![Some(TEXTS[r.below(12) as usize])]);
        let mut builder = LargeListBuilder::new(StringBuilder::new());
        rows.into_iter().for_each(|row| builder.append_option(row));
        self.plain("large_list_utf8", Arc::new(builder.finish()));

        let rows = self.values(&[[Some(1), None], [Some(i16::MIN), Some(i16::MAX)]], |r| {
            [Some(r.next() as i16), Some(0)]
        });
        let mut builder = FixedSizeListBuilder::new(Int16Builder::new(), 2);
        for row in rows {
            for value in row.unwrap_or([None; 2]) {
                builder.values().append_option(value);
            }
            builder.append(row.is_some());
        }
        self.plain("fixed_size_list", Arc::new(builder.finish()));
    }

    fn nested(&mut self) {
        let a = self.values(&[i64::MIN, i64::MAX, 0], |r| r.next() as i64);
        let b = self.values(&TEXTS, |r| TEXTS[r.below(12) as usize]);
        let present: Vec<bool> = (0..self.rows).map(|row| row % 5 != 4).collect();
        let fields = vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b \"quoted\"", DataType::Utf8, true),
        ];
        let arrays: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(a)), Arc::new(StringArray::from(b))];
        let array = StructArray::new(fields.into(), arrays, Some(NullBuffer::from(present)));
        self.plain("struct", Arc::new(array));

        let extremes = [vec![], vec![("", None), ("k é", Some(1))]];
        let rows = self.values(&extremes, |r| vec![("n", Some(r.below(100) as i64))]);
        let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        for row in rows {
            for (key, value) in row.iter().flatten() {
                builder.keys().append_value(key);
                builder.values().append_option(*value);
            }
            builder.append(row.is_some()).expect("as many keys as values");
        }
        self.plain("map", Arc::new(builder.finish()));
    }
}
