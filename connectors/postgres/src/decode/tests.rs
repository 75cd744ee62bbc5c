//! Values of every type as a COPY has them, and those that cannot be carried.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Int32Type, IntervalMonthDayNanoType, TimestampMicrosecondType,
};
use arrow_array::{Array, StringArray};

fn column(wire: &Wire, values: &[Option<&[u8]>]) -> Fit<ArrayRef> {
    let mut decoder = Decoder::new(wire);
    decoder.extend(values.iter().copied())?;
    let array = decoder.finish()?;
    // Another batch has nothing of it.
    decoder.extend(std::iter::once(None))?;
    assert_eq!((decoder.finish()?.len(), array.data_type()), (1, &wire.arrow().0));
    Ok(array)
}

#[test]
fn fixed_width_values_and_nulls() {
    let ints = column(&Wire::Int4, &[Some(&[0xff, 0xff, 0xff, 0xfe]), None]).unwrap();
    assert_eq!(ints.as_primitive::<Int32Type>().value(0), -2);
    assert!(ints.is_null(1));
    let bools = column(&Wire::Bool, &[Some(&[1]), Some(&[0])]).unwrap();
    assert!(bools.as_boolean().value(0) && !bools.as_boolean().value(1));
    let floats = column(&Wire::Float8, &[Some(&(-0.0f64).to_be_bytes())]).unwrap();
    let value = floats.as_primitive::<arrow_array::types::Float64Type>().value(0);
    assert!(value.is_sign_negative());
    assert_eq!(column(&Wire::Int8, &[Some(&[1, 2])]).err(), Some(Unfit::Malformed));
}

#[test]
fn dates_and_timestamps_keep_their_infinities() {
    let day = |days: i32| column(&Wire::Date, &[Some(&days.to_be_bytes())]);
    let value = |array: ArrayRef| array.as_primitive::<Date32Type>().value(0);
    assert_eq!(value(day(0).unwrap()), 10_957);
    assert_eq!(value(day(i32::MAX).unwrap()), i32::MAX);
    assert_eq!(value(day(i32::MIN).unwrap()), i32::MIN);
    assert_eq!(day(i32::MAX - 1).err(), Some(Unfit::OutOfRange));
    let at = |micros: i64| column(&Wire::TimestampTz, &[Some(&micros.to_be_bytes())]);
    let value = |array: ArrayRef| array.as_primitive::<TimestampMicrosecondType>().value(0);
    assert_eq!(value(at(1).unwrap()), EPOCH_MICROS + 1);
    assert_eq!(value(at(i64::MIN).unwrap()), i64::MIN);
    assert_eq!(at(i64::MAX - EPOCH_MICROS).err(), Some(Unfit::OutOfRange));
}

#[test]
fn intervals_keep_months_days_and_time_apart() {
    let mut bytes = (-1_500_000i64).to_be_bytes().to_vec();
    bytes.extend(2i32.to_be_bytes());
    bytes.extend((-14i32).to_be_bytes());
    let array = column(&Wire::Interval, &[Some(&bytes)]).unwrap();
    let value = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
    assert_eq!((value.months, value.days, value.nanoseconds), (-14, 2, -1_500_000_000));
    bytes[..8].copy_from_slice(&i64::MAX.to_be_bytes());
    assert_eq!(column(&Wire::Interval, &[Some(&bytes)]).err(), Some(Unfit::IntervalTooLong));
}

#[test]
fn text_is_checked_and_jsonb_loses_its_version() {
    let json = column(&Wire::Jsonb, &[Some(b"\x01{\"a\": 1}")]).unwrap();
    assert_eq!(json.as_string::<i32>().value(0), "{\"a\": 1}");
    assert_eq!(column(&Wire::Jsonb, &[Some(b"\x02{}")]).err(), Some(Unfit::Malformed));
    assert_eq!(column(&Wire::Text, &[Some(&[0xff])]).err(), Some(Unfit::NotUtf8));
}

#[test]
fn decimals_refuse_what_is_no_number() {
    let wire = Wire::Decimal { precision: 10, scale: 2 };
    let mut bytes = Vec::new();
    numeric::encode_i128(-1_250, 2, &mut bytes);
    let array = column(&wire, &[Some(&bytes), None]).unwrap();
    assert_eq!(array.as_primitive::<Decimal128Type>().value(0), -1_250);
    bytes.clear();
    numeric::encode_text("NaN", &mut bytes).unwrap();
    assert_eq!(column(&wire, &[Some(&bytes)]).err(), Some(Unfit::NumericNotFinite));
}

fn array(dimensions: &[(i32, i32)], items: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = (dimensions.len() as i32).to_be_bytes().to_vec();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 25]);
    for (length, lower) in dimensions {
        bytes.extend(length.to_be_bytes());
        bytes.extend(lower.to_be_bytes());
    }
    for item in items {
        bytes.extend(item.map_or(-1, |i| i.len() as i32).to_be_bytes());
        bytes.extend(item.unwrap_or_default());
    }
    bytes
}

#[test]
fn arrays_of_one_dimension_are_lists() {
    let wire = Wire::List(Box::new(Wire::Text));
    let full = array(&[(3, 1)], &[Some(b"a"), None, Some(b"")]);
    let empty = array(&[], &[]);
    let lists = column(&wire, &[Some(&full), None, Some(&empty)]).unwrap();
    let lists = lists.as_list::<i32>();
    let items: StringArray = lists.value(0).as_string().clone();
    assert_eq!(items.iter().collect::<Vec<_>>(), [Some("a"), None, Some("")]);
    assert!(lists.is_null(1));
    assert_eq!(lists.value(2).len(), 0);
    for other in [array(&[(1, 0)], &[Some(b"a")]), array(&[(1, 1), (1, 1)], &[Some(b"a")])] {
        assert_eq!(column(&wire, &[Some(&other)]).err(), Some(Unfit::Dimensions));
    }
}
