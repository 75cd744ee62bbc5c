//! For tests: what is logged while something is done.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

/// Keeps what is logged: target, level and all fields.
#[derive(Clone, Default)]
pub(crate) struct Seen(pub(crate) std::sync::Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Seen {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let mut seen = self.0.lock().unwrap();
        seen.last_mut().unwrap().push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Seen {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        self.0.lock().unwrap().push(format!("{} {}", metadata.target(), metadata.level()));
        event.record(&mut self.clone());
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// What `work` says, and what it returns. It is done twice: the first time makes its places in
/// the code known to tracing, which another thread without a listener may do at the same
/// moment, and then for good says that nobody listens.
pub(crate) fn heard<T>(work: impl Fn() -> T) -> (T, Vec<String>) {
    tracing::subscriber::with_default(Seen::default(), &work);
    let seen = Seen::default();
    let value = tracing::subscriber::with_default(seen.clone(), work);
    let lines = seen.0.lock().unwrap().clone();
    (value, lines)
}
