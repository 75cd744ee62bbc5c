//! A transformer plugin: rows go through its process before they are written.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use futures::StreamExt;
use highwater_core::{Error, Result, Table, TableName, Transformer};
use serde_json::Value;
use tokio::sync::{OnceCell, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::host::{LogCounts, Plugin, PluginSpec};
use crate::proto::plugin::{init, transform, transform_schema};
use crate::wire::types::{from_wire, to_wire};
use crate::wire::{
    Decoded, Decoder, Encoder, INSERT_BYTES_MAX, decode_table, encode_table, wire_name,
};

/// Messages that may wait between our encoder and the connection.
const WAITING: usize = 2;

/// What a run asks of a transformer plugin.
#[derive(Debug, Clone)]
pub struct TransformerConfig {
    /// The plugin.
    pub plugin: PluginSpec,
    /// Its own settings; `null` counts as none.
    pub spec: Value,
    /// Names the run in the plugin's own logs.
    pub invocation_id: String,
}

/// A transformer plugin, for one run. Its process is started when it is first needed, ends in good
/// order with [`TransformerPlugin::close`], and is killed when this is dropped.
#[derive(Debug)]
pub struct TransformerPlugin {
    config: TransformerConfig,
    plugin: OnceCell<Plugin>,
    /// What was asked so far.
    known: Mutex<Vec<Arc<Known>>>,
}

/// What becomes of a table.
#[derive(Debug)]
struct Known {
    before: Table,
    /// Its name on the wire afterwards.
    wire_name: String,
    after: Table,
}

/// One `Transform` call.
#[derive(Debug, Default)]
struct Call {
    /// The tables that were sent, by their names on the wire afterwards. Two destinations may
    /// send tables of one name with different columns.
    tables: Mutex<BTreeMap<String, Arc<Known>>>,
    /// Everything that was to be sent is sent.
    is_sent: AtomicBool,
}

impl TransformerPlugin {
    /// The plugin; nothing is started yet.
    pub fn new(config: TransformerConfig) -> Self {
        Self { config, plugin: OnceCell::new(), known: Mutex::default() }
    }

    /// How many errors and warnings the plugin has logged so far.
    pub fn log_counts(&self) -> LogCounts {
        self.plugin.get().map(Plugin::logs).unwrap_or_default()
    }

    /// Lets the process end in good order. A further call does nothing.
    ///
    /// # Errors
    /// As [`Plugin::stop`].
    pub async fn close(&self) -> Result<()> {
        match self.plugin.get() {
            Some(plugin) => plugin.stop().await,
            None => Ok(()),
        }
    }

    async fn plugin(&self) -> Result<&Plugin> {
        self.plugin.get_or_try_init(|| Box::pin(self.start())).await
    }

    async fn start(&self) -> Result<Plugin> {
        let plugin = Plugin::start(&self.config.plugin).await?;
        plugin.hide(&self.config.spec);
        let spec = match &self.config.spec {
            Value::Null => "{}".to_owned(),
            spec => spec.to_string(),
        };
        let request = init::Request {
            spec: spec.into_bytes().into(),
            no_connection: false,
            invocation_id: self.config.invocation_id.clone(),
        };
        match plugin.client().init(request).await {
            Ok(_) => Ok(plugin),
            Err(status) => Err(plugin.explain(status)),
        }
    }

    async fn known(&self, table: &Table) -> Result<Arc<Known>> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().iter().find(|known| known.before == *table) {
            return Ok(Arc::clone(known));
        }
        let plugin = self.plugin().await?;
        let request = transform_schema::Request { schema: encode_table(table)? };
        let answer = plugin.client().transform_schema(request).await;
        let answer = answer.map_err(|s| plugin.explain(s))?.into_inner();
        let after = decode_table(&answer.schema)?;
        let wire_name = after.name.name.clone();
        let after = restored(after, table)?;
        let known = Arc::new(Known { before: table.clone(), wire_name, after });
        lock().push(Arc::clone(&known));
        Ok(known)
    }

    /// Encodes what comes in until nothing comes any more.
    async fn feed(
        &self,
        mut input: mpsc::Receiver<(Arc<Table>, RecordBatch)>,
        requests: mpsc::Sender<transform::Request>,
        call: &Call,
    ) -> Result<()> {
        let mut encoders: HashMap<TableName, Encoder> = HashMap::new();
        while let Some((table, rows)) = input.recv().await {
            let encoder = match encoders.get_mut(&table.name) {
                Some(encoder) if encoder.table().schema == table.schema => encoder,
                _ => {
                    call.add(self.known(&table).await?);
                    let encoder = Encoder::new(&table, INSERT_BYTES_MAX)?;
                    encoders.entry(table.name.clone()).insert_entry(encoder).into_mut()
                }
            };
            for record in encoder.encode(&rows)? {
                if requests.send(transform::Request { record }).await.is_err() {
                    // The call has ended; the other side knows how.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Passes on what comes out until the call ends.
    async fn drain(
        &self,
        plugin: &Plugin,
        requests: mpsc::Receiver<transform::Request>,
        output: &mpsc::Sender<(String, RecordBatch)>,
        call: &Arc<Call>,
    ) -> Result<()> {
        // The answer may begin only when the first rows come out, so the call is not awaited
        // before rows are sent.
        let (mut requests, sent) = (ReceiverStream::new(requests), Arc::clone(call));
        let requests = futures::stream::poll_fn(move |context| {
            let next = requests.poll_next_unpin(context);
            if let Poll::Ready(None) = next {
                sent.is_sent.store(true, Ordering::Release);
            }
            next
        });
        let answer = plugin.client().transform(requests).await;
        let mut stream = answer.map_err(|s| plugin.explain(s))?.into_inner();
        let mut decoder = Decoder::new();
        loop {
            let message = stream.message().await.map_err(|s| plugin.explain(s))?;
            let Some(message) = message else { break };
            let decoded = decoder.decode(&message.record);
            let Decoded { table, batches } =
                decoded.map_err(|e| e.context("plugin", plugin.name()))?;
            let known = call.announced(&table.name.name)?;
            for rows in batches.into_iter().filter(|rows| rows.num_rows() > 0) {
                let rows = shaped(&rows, &known.after)?;
                if output.send((known.after.name.to_string(), rows)).await.is_err() {
                    return Err(Error::interrupted("Nobody takes what a transformer gives out"));
                }
            }
        }
        if call.is_sent.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::internal("A transformer ended before its input did")
            .context("plugin", plugin.name()))
    }
}

impl Call {
    fn add(&self, known: Arc<Known>) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.insert(known.wire_name.clone(), known);
    }

    fn announced(&self, wire_name: &str) -> Result<Arc<Known>> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.get(wire_name).cloned().ok_or_else(|| {
            Error::data("A transformer gave rows of a table that it did not announce")
                .context("table", wire_name)
        })
    }
}

/// The rows with the columns that were announced.
fn shaped(rows: &RecordBatch, announced: &Table) -> Result<RecordBatch> {
    let other = |column: &str| {
        Error::schema("A transformer gave rows with other columns than it announced")
            .context("table", &announced.name)
            .context("column", column)
    };
    let is_new = |field: &&Arc<Field>| announced.field(field.name()).is_none();
    if let Some(new) = rows.schema_ref().fields().iter().find(is_new) {
        return Err(other(new.name()));
    }
    let columns = announced.schema.fields().iter().map(|field| {
        let column = rows.column_by_name(field.name()).ok_or_else(|| other(field.name()))?;
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else if column.data_type().equals_datatype(field.data_type()) {
            Ok(arrow_cast::cast(column, field.data_type())?)
        } else {
            Err(other(field.name()).context("type", column.data_type()))
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(&announced.schema), columns, &options).map_err(
        |e| {
            Error::data("A transformer gave rows that do not fit the columns of their table")
                .context("table", &announced.name)
                .caused_by(e)
        },
    )
}

/// The table that came back, with what the way over the wire has taken from it: the namespace of
/// a name that is the same, and the types that a system declared for columns that are the same.
fn restored(mut after: Table, before: &Table) -> Result<Table> {
    let sent = wire_name(&before.name);
    if after.name.name == sent {
        after.name = before.name.clone();
    } else if before.name.name == sent {
        after.name = before.name.renamed(after.name.name);
    }
    if let (Some(parent), Some(old)) = (&after.parent, &before.parent)
        && parent.name == wire_name(old)
    {
        after.parent = Some(old.clone());
    }
    let fields = after.schema.fields().iter().map(|field| {
        let Some(old) = before.field(field.name()) else { return Ok(Arc::clone(field)) };
        let there_and_back = from_wire(&to_wire(old)?)?;
        let same = there_and_back.data_type().equals_datatype(field.data_type())
            && there_and_back.extension_type_name() == field.extension_type_name();
        if !same {
            return Ok(Arc::clone(field));
        }
        // What CloudQuery says of the column is the transformer's to change.
        let is_theirs = |key: &&String| key.starts_with("cq:");
        let kept = old.metadata().iter().filter(|(key, _)| !is_theirs(key));
        let new = field.metadata().iter().filter(|(key, _)| is_theirs(key));
        let metadata = kept.chain(new).map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Arc::new(field.as_ref().clone().with_metadata(metadata)))
    });
    let fields = fields.collect::<Result<Vec<_>>>()?;
    after.schema = Arc::new(Schema::new_with_metadata(fields, after.schema.metadata().clone()));
    Ok(after)
}

#[async_trait]
impl Transformer for TransformerPlugin {
    fn name(&self) -> &str {
        &self.config.plugin.name
    }

    async fn table(&self, table: &Table) -> Result<Table> {
        Ok(self.known(table).await?.after.clone())
    }

    async fn transform(
        &self,
        input: mpsc::Receiver<(Arc<Table>, RecordBatch)>,
        output: mpsc::Sender<(String, RecordBatch)>,
    ) -> Result<()> {
        let plugin = self.plugin().await?;
        let (requests, waiting) = mpsc::channel(WAITING);
        let call = Arc::new(Call::default());
        let feed = self.feed(input, requests, &call);
        let drain = self.drain(plugin, waiting, &output, &call);
        tokio::try_join!(feed, drain).map(drop)
    }
}
