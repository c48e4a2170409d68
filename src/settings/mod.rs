//! Every setting and every limit of the program, read once: defaults, then a file, then the environment, then flags.
//!
//! This room alone reads the environment, and holds nothing but plain numbers and words, so that every floor may be
//! handed its part. Each setting stands once, in the list below, with its default, its bounds and its variable: the
//! file's key is its name, and the same list answers "which limits does this server have" ([`Settings::list`]).
//! `setting.rs` is what is known of each, `kind.rs` what it may be, `layers.rs` how the layers are laid over each other.

mod kind;
mod layers;
mod setting;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use kind::{ADDRESS, FILE, Kind, TEXT};
use setting::concerns;

pub use kind::{Bounds, Secret, Value};
pub use layers::{Effective, Flag, Origin, SettingsError, Sources};
pub use setting::Setting;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);

concerns! {
    /// Pictures and clips, as they come in.
    media: MediaSettings {
        /// Encoded size of one picture or clip, bytes.
        bytes_max: usize = 32 << 20, 1..=1 << 30, "VLJEPA_MEDIA_BYTES_MAX";
        /// Pixels of one decoded frame, width times height.
        pixels_max: u64 = 1 << 24, 1..=1 << 28, "VLJEPA_MEDIA_PIXELS_MAX";
        /// Frames of one clip that are in memory at once: all of an animation; a video's are decoded one at a time.
        frames_max: usize = 1024, 1..=1 << 16, "VLJEPA_MEDIA_FRAMES_MAX";
        /// Memory of all decoded frames of one clip, and of the decoder itself, bytes.
        decode_bytes_max: u64 = 512 << 20, 1 << 10..=1 << 36, "VLJEPA_MEDIA_DECODE_BYTES_MAX";
        /// Time to decode one clip, milliseconds.
        decode_ms_max: u64 = 10_000, 1..=3_600_000, "VLJEPA_MEDIA_DECODE_MS_MAX";
        /// Memory of everything decoded that is not answered yet, of all requests together, bytes.
        memory_bytes_max: u64 = 4 << 30, 1 << 10..=1 << 40, "VLJEPA_MEDIA_MEMORY_BYTES_MAX";
        /// Segments of one long clip that wait or are computed at once; one more is being made.
        segments_at_once: usize = 4, 1..=1 << 10, "VLJEPA_MEDIA_SEGMENTS_AT_ONCE";
        /// Pictures or clips in one request.
        items_max: usize = 64, 1..=1 << 12, "VLJEPA_MEDIA_ITEMS_MAX";
    }
    /// Questions, candidates, texts and answers.
    text: TextSettings {
        /// One text, bytes of UTF-8.
        bytes_max: usize = 64 << 10, 1..=1 << 24, "VLJEPA_TEXT_BYTES_MAX";
        /// Tokens the decoder writes for one answer.
        answer_tokens_max: usize = 64, 1..=1 << 12, "VLJEPA_ANSWER_TOKENS_MAX";
        /// Candidate answers of one question.
        candidates_max: usize = 1024, 1..=1 << 16, "VLJEPA_CANDIDATES_MAX";
        /// Texts in one request.
        texts_max: usize = 1024, 1..=1 << 16, "VLJEPA_TEXTS_MAX";
    }
    /// What waits for the model, and what it takes at once. Cost is counted in tokens.
    queue: QueueSettings {
        /// Requests that may wait; the next one is refused at once.
        items_max: usize = 256, 1..=1 << 16, "VLJEPA_QUEUE_ITEMS_MAX";
        /// Cost of all requests that wait, tokens; a dearer single request is refused for good.
        cost_max: usize = 1 << 20, 1..=1 << 32, "VLJEPA_QUEUE_COST_MAX";
        /// Requests of one batch.
        batch_items_max: usize = 32, 1..=1 << 12, "VLJEPA_BATCH_ITEMS_MAX";
        /// Cost of one batch, tokens; a dearer single request runs alone.
        batch_cost_max: usize = 1 << 15, 1..=1 << 32, "VLJEPA_BATCH_COST_MAX";
        /// Cost of one batch of jobs, which a query that comes meanwhile waits for, tokens.
        batch_job_cost_max: usize = 1 << 12, 1..=1 << 32, "VLJEPA_BATCH_JOB_COST_MAX";
        /// Time a batch should take by what earlier ones took, milliseconds; a dearer single request runs alone.
        batch_ms_max: u64 = 250, 1..=600_000, "VLJEPA_BATCH_MS_MAX";
        /// The same of a batch of jobs, which a query that comes meanwhile waits for, milliseconds.
        batch_job_ms_max: u64 = 50, 1..=600_000, "VLJEPA_BATCH_JOB_MS_MAX";
        /// Part of what may wait that sessions and jobs together may fill, percent.
        watch_percent_max: usize = 70, 1..=100, "VLJEPA_QUEUE_WATCH_PERCENT_MAX";
        /// Part of what may wait that jobs may fill, percent.
        job_percent_max: usize = 40, 1..=100, "VLJEPA_QUEUE_JOB_PERCENT_MAX";
        /// Model time and places that live sessions get however many queries come, percent.
        watch_percent_min: usize = 15, 1..=40, "VLJEPA_QUEUE_WATCH_PERCENT_MIN";
        /// Model time and places that jobs get however much else comes, percent.
        job_percent_min: usize = 5, 1..=40, "VLJEPA_QUEUE_JOB_PERCENT_MIN";
        /// Texts whose embeddings are kept for the next request; 0 keeps none.
        text_cache_items: usize = 8192, 0..=1 << 24, "VLJEPA_TEXT_CACHE_ITEMS";
        /// Memory of the texts and embeddings that are kept, bytes.
        text_cache_bytes: usize = 64 << 20, 0..=1 << 40, "VLJEPA_TEXT_CACHE_BYTES";
    }
    /// The gRPC server.
    service: ServiceSettings {
        /// One message in or out, bytes on the wire after decompression.
        message_bytes_max: usize = 64 << 20, 1 << 10..=1 << 30, "VLJEPA_MESSAGE_BYTES_MAX";
        /// Items of one StreamPredict in flight; beyond it the server does not read.
        stream_items_max: usize = 64, 1..=1 << 12, "VLJEPA_STREAM_ITEMS_MAX";
        /// Deadline of a request that brings none, milliseconds.
        deadline_default_ms: u64 = 60_000, 1..=86_400_000, "VLJEPA_DEADLINE_DEFAULT_MS";
        /// Longest deadline a request may bring; a longer one is cut to this, milliseconds.
        deadline_max_ms: u64 = 600_000, 1..=86_400_000, "VLJEPA_DEADLINE_MAX_MS";
        /// Time between saying NOT_SERVING and refusing new requests at shutdown, milliseconds.
        drain_delay_ms: u64 = 0, 0..=600_000, "VLJEPA_DRAIN_DELAY_MS";
        /// Time that requests in flight get to finish at shutdown before the hard stop, milliseconds.
        drain_max_ms: u64 = 10_000, 0..=3_600_000, "VLJEPA_DRAIN_MAX_MS";
        /// Time without progress of the model thread after which health answers NOT_SERVING, milliseconds.
        health_max_ms: u64 = 5_000, 1..=600_000, "VLJEPA_HEALTH_MAX_MS";
        /// Shortest time a refused client is told to wait; the time that the backlog takes when that is longer,
        /// milliseconds.
        retry_after_ms: u64 = 100, 1..=600_000, "VLJEPA_RETRY_AFTER_MS";
        /// Longest time a refused client is told to wait, milliseconds.
        retry_after_max_ms: u64 = 30_000, 1..=600_000, "VLJEPA_RETRY_AFTER_MAX_MS";
        /// One message to a service that takes no media, bytes after decompression.
        small_message_bytes_max: usize = 4 << 20, 1 << 10..=1 << 30, "VLJEPA_SMALL_MESSAGE_BYTES_MAX";
        /// Messages of all calls together, in and out, bytes; a call for which there is no room is refused at once.
        inflight_bytes_max: usize = 512 << 20, 1 << 16..=1 << 40, "VLJEPA_INFLIGHT_BYTES_MAX";
        /// Time in which a message must arrive once it has begun, milliseconds.
        message_read_max_ms: u64 = 60_000, 1..=3_600_000, "VLJEPA_MESSAGE_READ_MAX_MS";
        /// Smallest answer that is compressed, for clients that accept it, bytes.
        compress_bytes_min: usize = 1 << 10, 0..=1 << 30, "VLJEPA_COMPRESS_BYTES_MIN";
        /// Origins whose pages may call over gRPC-Web, separated by commas, as browsers spell them
        /// (`https://example.org:8443`); `*` lets every page, none only pages of this very server.
        web_origins: Option<String> = None, TEXT, "VLJEPA_WEB_ORIGINS";
    }
    /// The connections of the gRPC server.
    connection: ConnectionSettings {
        /// Connections at once; the next one is closed at once.
        connections_max: usize = 4096, 1..=1 << 20, "VLJEPA_CONNECTIONS_MAX";
        /// Calls at once on one connection.
        streams_max: u32 = 1024, 1..=1 << 20, "VLJEPA_STREAMS_MAX";
        /// Time from the connection to its first call, with preface and TLS handshake, milliseconds.
        preface_max_ms: u64 = 10_000, 1..=600_000, "VLJEPA_PREFACE_MAX_MS";
        /// Time that a connection may be without a call, milliseconds.
        idle_max_ms: u64 = 900_000, 1..=86_400_000, "VLJEPA_IDLE_MAX_MS";
        /// Time that a client may leave an answer unread before its connection is closed, milliseconds.
        unread_max_ms: u64 = 30_000, 1..=3_600_000, "VLJEPA_UNREAD_MAX_MS";
        /// Age at which a connection is asked to end, its calls finished, milliseconds; 0 never asks.
        age_max_ms: u64 = 0, 0..=604_800_000, "VLJEPA_CONNECTION_AGE_MAX_MS";
        /// Time that it gets for that before it is closed, milliseconds.
        age_grace_ms: u64 = 600_000, 1..=86_400_000, "VLJEPA_CONNECTION_AGE_GRACE_MS";
        /// Time between pings that ask whether the client is still there, milliseconds.
        keepalive_ms: u64 = 30_000, 1..=86_400_000, "VLJEPA_KEEPALIVE_MS";
        /// Time in which a ping must be answered, milliseconds.
        keepalive_max_ms: u64 = 20_000, 1..=3_600_000, "VLJEPA_KEEPALIVE_MAX_MS";
        /// Time without a call and without a byte after which a connection is closed at shutdown, milliseconds.
        drain_quiet_ms: u64 = 500, 1..=600_000, "VLJEPA_DRAIN_QUIET_MS";
    }
    /// Media that are sent ahead of the requests that use them.
    uploads: UploadSettings {
        /// One upload, bytes.
        bytes_max: u64 = 1 << 30, 1..=1 << 40, "VLJEPA_UPLOAD_BYTES_MAX";
        /// One chunk of an upload, bytes.
        chunk_bytes_max: usize = 1 << 20, 1..=1 << 30, "VLJEPA_UPLOAD_CHUNK_BYTES_MAX";
        /// Uploads at once, those on their way included; each holds a file open. 0 takes none.
        items_max: usize = 256, 0..=1 << 16, "VLJEPA_UPLOADS_MAX";
        /// All uploads together, bytes on the disk.
        total_bytes_max: u64 = 4 << 30, 1..=1 << 44, "VLJEPA_UPLOADS_BYTES_MAX";
        /// Time that an upload is kept, milliseconds.
        expiry_ms: u64 = 3_600_000, 1..=604_800_000, "VLJEPA_UPLOAD_EXPIRY_MS";
        /// Directory of their files, which should be a disk; none: the system's for temporary files.
        directory: Option<PathBuf> = None, FILE, "VLJEPA_UPLOADS_DIRECTORY";
    }
    /// Live sessions.
    watch: WatchSettings {
        /// Sessions at once, those included whose call broke and that may be taken up again; a further one is refused.
        sessions_max: usize = 64, 0..=1 << 16, "VLJEPA_WATCH_SESSIONS_MAX";
        /// Standing queries of one session.
        queries_max: usize = 8, 1..=1 << 10, "VLJEPA_WATCH_QUERIES_MAX";
        /// Length of a window, milliseconds.
        window_ms_max: u64 = 600_000, 1..=86_400_000, "VLJEPA_WATCH_WINDOW_MS_MAX";
        /// Frames of one session that wait: its credits.
        frames_waiting_max: usize = 32, 1..=1 << 12, "VLJEPA_WATCH_FRAMES_WAITING_MAX";
        /// Frames of one session that wait, bytes as they came; a larger one is alone.
        bytes_waiting_max: usize = 32 << 20, 1 << 10..=1 << 32, "VLJEPA_WATCH_BYTES_WAITING_MAX";
        /// Frames of one window that are kept; of more, those that are not looked at are let go.
        window_frames_max: usize = 1024, 2..=1 << 16, "VLJEPA_WATCH_WINDOW_FRAMES_MAX";
        /// Embeddings of one session that are kept, in case the same pictures are looked at again; 0 keeps none.
        windows_kept_max: usize = 64, 0..=1 << 12, "VLJEPA_WATCH_WINDOWS_KEPT_MAX";
        /// Changes of queries, flushes and embeddings to speak of that wait.
        requests_waiting_max: usize = 64, 1..=1 << 12, "VLJEPA_WATCH_REQUESTS_WAITING_MAX";
        /// Events that are kept until they are acknowledged; beyond it nothing is computed.
        events_kept_max: usize = 1024, 1..=1 << 20, "VLJEPA_WATCH_EVENTS_KEPT_MAX";
        /// Time that a session whose call broke is kept for whoever takes it up again, milliseconds.
        resume_ms: u64 = 60_000, 0..=86_400_000, "VLJEPA_WATCH_RESUME_MS";
        /// Time without a message of the client after which a session ends, milliseconds.
        idle_ms: u64 = 300_000, 1..=86_400_000, "VLJEPA_WATCH_IDLE_MS";
        /// Time in which a window must be looked at, or an embedding put into words, milliseconds.
        patience_ms: u64 = 30_000, 1..=3_600_000, "VLJEPA_WATCH_PATIENCE_MS";
    }
    /// Batch jobs.
    jobs: JobSettings {
        /// Directory of the store of jobs; none: there are no jobs.
        directory: Option<PathBuf> = None, FILE, "VLJEPA_JOBS_DIRECTORY";
        /// Directory below which the inputs and outputs of clients' jobs lie; none: clients may not make jobs.
        root: Option<PathBuf> = None, FILE, "VLJEPA_JOBS_ROOT";
        /// URLs of object stores below which clients' outputs may lie, separated by commas (`s3://bucket/jobs`); none:
        /// nowhere but below the directory.
        urls: Option<String> = None, TEXT, "VLJEPA_JOBS_URLS";
        /// Jobs that are kept, ended ones included; a further one is refused.
        items_max: usize = 10_000, 1..=1 << 24, "VLJEPA_JOBS_MAX";
        /// Shards that are worked on at once, of all jobs together.
        shards_at_once: usize = 2, 1..=256, "VLJEPA_JOBS_SHARDS_AT_ONCE";
        /// Shards of one job; an input of more is refused.
        shards_max: u32 = 1 << 20, 1..=1 << 24, "VLJEPA_JOBS_SHARDS_MAX";
        /// Input rows of one part.
        part_rows_max: usize = 1 << 16, 1..=1 << 20, "VLJEPA_JOBS_PART_ROWS_MAX";
        /// Memory of one part that is being written, bytes; a part that needs more ends its job.
        part_bytes_max: usize = 256 << 20, 1 << 16..=1 << 32, "VLJEPA_JOBS_PART_BYTES_MAX";
        /// Media of one shard that are decoded, waiting or computed at once.
        media_at_once: usize = 32, 1..=1 << 12, "VLJEPA_JOBS_MEDIA_AT_ONCE";
        /// Texts of one shard that are computed at once.
        texts_at_once: usize = 256, 1..=1 << 16, "VLJEPA_JOBS_TEXTS_AT_ONCE";
        /// One line of an input, bytes; a longer one fails as a row.
        line_bytes_max: usize = 1 << 20, 1 << 10..=1 << 30, "VLJEPA_JOBS_LINE_BYTES_MAX";
        /// The footer of a Parquet table, which is read whole, bytes.
        footer_bytes_max: u64 = 64 << 20, 1 << 10..=1 << 30, "VLJEPA_JOBS_FOOTER_BYTES_MAX";
        /// Memory of the media files of one shard that are read and not answered yet, bytes, and the same again of those
        /// that stand in the input itself; a larger one is alone.
        ahead_bytes_max: usize = 256 << 20, 1 << 16..=1 << 32, "VLJEPA_JOBS_AHEAD_BYTES_MAX";
    }
    /// Outputs of jobs in an object store, `s3://bucket/prefix`, by AWS's own variables; without a key, a token file or a
    /// container's credentials the machine's role is asked for.
    objects: ObjectSettings {
        /// The store, such as https://minio.example.org:9000; none: AWS's own. One of http:// is spoken to without TLS.
        endpoint: Option<String> = None, TEXT, "AWS_ENDPOINT_URL";
        /// Region of the bucket.
        region: Option<String> = None, TEXT, "AWS_REGION";
        /// Region where AWS_REGION names none; none: us-east-1.
        default_region: Option<String> = None, TEXT, "AWS_DEFAULT_REGION";
        /// Name of the key.
        access_key_id: Option<String> = None, TEXT, "AWS_ACCESS_KEY_ID";
        /// The key.
        secret_access_key: Option<Secret> = None, TEXT, "AWS_SECRET_ACCESS_KEY";
        /// What belongs to a key that is only lent.
        session_token: Option<Secret> = None, TEXT, "AWS_SESSION_TOKEN";
        /// Role that the token file stands for.
        role_arn: Option<String> = None, TEXT, "AWS_ROLE_ARN";
        /// Name of the session of that role.
        role_session_name: Option<String> = None, TEXT, "AWS_ROLE_SESSION_NAME";
        /// File of a token that is exchanged for a key, as Kubernetes mounts it.
        web_identity_token_file: Option<PathBuf> = None, FILE, "AWS_WEB_IDENTITY_TOKEN_FILE";
        /// Where a container gets its key, below the address that AWS gives all of them.
        container_credentials_relative_uri: Option<String> = None, TEXT, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        /// Where a container gets its key.
        container_credentials_full_uri: Option<String> = None, TEXT, "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        /// File of the token that a container shows for it.
        container_authorization_token_file: Option<PathBuf> = None, FILE, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    }
    /// Jobs shared by many machines through NATS JetStream. The same on every machine of a cluster.
    cluster: ClusterSettings {
        /// Servers of the queue, such as nats://one:4222,nats://two:4222; none: jobs stay on this machine.
        url: Option<String> = None, TEXT, "VLJEPA_QUEUE";
        /// First word of all names that the cluster has in the queue: clusters of different names do not see each other.
        name: String = "vljepa".into(), Bounds::Text("letters, digits and dashes"), "VLJEPA_CLUSTER_NAME";
        /// File of the credentials shown to the queue, as NATS makes it.
        credentials: Option<PathBuf> = None, FILE, "VLJEPA_QUEUE_CREDENTIALS";
        /// Token shown to the queue.
        token: Option<Secret> = None, TEXT, "VLJEPA_QUEUE_TOKEN";
        /// Authorities that may vouch for the queue's servers; with them, only TLS is spoken.
        ca: Option<PathBuf> = None, FILE, "VLJEPA_QUEUE_CA";
        /// Servers that keep a copy of everything in the queue; taken when a cluster first uses the queue.
        replicas: usize = 1, 1..=5, "VLJEPA_QUEUE_REPLICAS";
        /// Time after which a shard of a worker that is not heard of goes to another one, milliseconds.
        lease_ms: u64 = 30_000, 500..=3_600_000, "VLJEPA_QUEUE_LEASE_MS";
        /// Times that a shard is handed out; then its job fails.
        deliveries_max: u64 = 5, 1..=1000, "VLJEPA_QUEUE_DELIVERIES_MAX";
        /// Shards of one job that are handed out or wait in the queue at once.
        shards_ahead: usize = 256, 1..=1 << 16, "VLJEPA_QUEUE_SHARDS_AHEAD";
        /// Time between looks whether the queue holds what it should, milliseconds.
        reconcile_ms: u64 = 5_000, 50..=600_000, "VLJEPA_QUEUE_RECONCILE_MS";
        /// Time that the queue is asked again while it does not answer, milliseconds.
        patience_ms: u64 = 30_000, 100..=3_600_000, "VLJEPA_QUEUE_PATIENCE_MS";
    }
    /// The processor.
    cpu: CpuSettings {
        /// Threads that compute; 0 takes one a core.
        threads: usize = 0, 0..=4096, "VLJEPA_THREADS";
        /// Threads that decode media; 0 takes one a core.
        decode_threads: usize = 0, 0..=4096, "VLJEPA_DECODE_THREADS";
        /// Instruction set of the kernels, in the words of `kernel::isa`, which judges it; auto takes the best one this
        /// CPU has.
        isa: String = "auto".into(), TEXT, "VLJEPA_ISA";
        /// Whether large ternary products may be looked up in part; auto: where a trial shows that it is faster.
        lookup: String = "auto".into(), &["auto", "always", "never"], "VLJEPA_LOOKUP";
    }
    /// The model, as it is loaded.
    model: ModelSettings {
        /// How parts hold their dense weights, in the words of `model::precision`, which judges it; parts that it does
        /// not name are as their bundle says.
        precision: Option<String> = None, Bounds::Text("PART=WORD,.. or a word for all parts"), "VLJEPA_PRECISION";
    }
    /// Models that clients may load.
    models: ModelsSettings {
        /// Models at once, those that come or go included; a further one is refused.
        items_max: usize = 16, 1..=1 << 10, "VLJEPA_MODELS_MAX";
        /// Directory below which clients may load bundles; none: they may not.
        root: Option<PathBuf> = None, FILE, "VLJEPA_MODELS_ROOT";
    }
    /// Where the process listens.
    server: ServerSettings {
        /// Address of the gRPC server; port 0 takes a free one.
        addr: SocketAddr = LOOPBACK, ADDRESS, "VLJEPA_ADDR";
        /// Address of metrics and probes over HTTP: /metrics, /livez, /readyz; none: they are not served.
        admin_addr: Option<SocketAddr> = None, ADDRESS, "VLJEPA_ADMIN_ADDR";
    }
    /// Who may listen to the server's connections, and who may make them.
    tls: TlsSettings {
        /// The server's certificate, then those it is signed by; with one, the server speaks TLS and nothing else.
        certificate: Option<PathBuf> = None, FILE, "VLJEPA_TLS_CERTIFICATE";
        /// The certificate's private key.
        key: Option<PathBuf> = None, FILE, "VLJEPA_TLS_KEY";
        /// Authorities of the certificates that clients must then show.
        client_ca: Option<PathBuf> = None, FILE, "VLJEPA_TLS_CLIENT_CA";
    }
    /// Who may call what.
    keys: KeySettings {
        /// The keys that are known, each with its scopes; without this file nobody needs a key.
        file: Option<PathBuf> = None, FILE, "VLJEPA_KEYS_FILE";
        /// Time between looks whether the files of keys and certificates have changed, milliseconds.
        reload_ms: u64 = 10_000, 10..=86_400_000, "VLJEPA_KEYS_RELOAD_MS";
    }
    /// The commands that ask a server.
    client: ClientSettings {
        /// Authorities that may vouch for the server.
        ca: Option<PathBuf> = None, FILE, "VLJEPA_CLIENT_CA";
        /// The certificate shown to the server.
        certificate: Option<PathBuf> = None, FILE, "VLJEPA_CLIENT_CERTIFICATE";
        /// That certificate's private key.
        key: Option<PathBuf> = None, FILE, "VLJEPA_CLIENT_KEY";
        /// The key shown to the server, as `vljepa key new` printed it.
        api_key: Option<Secret> = None, TEXT, "VLJEPA_API_KEY";
    }
    /// What is logged, and how.
    log: LogSettings {
        /// Filter in tracing-subscriber's spelling.
        filter: String = "info".into(), TEXT, "VLJEPA_LOG";
        /// Lines for people or for programs.
        format: String = "text".into(), &["text", "json"], "VLJEPA_LOG_FORMAT";
    }
    /// Traces over OTLP, by OpenTelemetry's own variables; those that only say how batches of spans travel, such as
    /// OTEL_EXPORTER_OTLP_HEADERS and OTEL_BSP_SCHEDULE_DELAY, its library reads by itself.
    traces: TraceSettings {
        /// The collector, such as http://127.0.0.1:4317, which takes OTLP over gRPC; none: nothing is traced.
        endpoint: Option<String> = None, TEXT, "OTEL_EXPORTER_OTLP_ENDPOINT";
        /// The collector of traces alone, if it is another one.
        traces_endpoint: Option<String> = None, TEXT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        /// true: nothing is traced.
        disabled: String = "false".into(), TEXT, "OTEL_SDK_DISABLED";
        /// As what the server is known to the collector.
        service_name: String = "vljepa".into(), TEXT, "OTEL_SERVICE_NAME";
        /// Which calls are traced: always_on, always_off, traceidratio, or one of these after parentbased_, which asks
        /// the caller first.
        sampler: String = "parentbased_always_on".into(), TEXT, "OTEL_TRACES_SAMPLER";
        /// The part of all calls that traceidratio traces, 0 to 1; none: all.
        sampler_share: Option<String> = None, TEXT, "OTEL_TRACES_SAMPLER_ARG";
    }
}

impl Settings {
    /// The most elements that all repeated fields of one message may hold: what a request within every other limit can
    /// have.
    pub fn elements_max(&self) -> usize {
        let asked = self.media.items_max * (1 + self.media.frames_max) + self.text.texts_max + self.text.candidates_max;
        asked.max(self.watch.queries_max * (1 + self.text.candidates_max))
    }
}

/// What must stand together: the second is of no use without the first.
const TOGETHER: &[(&str, &str)] = &[
    ("tls.certificate", "tls.key"),
    ("tls.key", "tls.certificate"),
    ("tls.certificate", "tls.client_ca"),
    ("client.certificate", "client.key"),
    ("client.key", "client.certificate"),
];

impl Settings {
    /// Fails where settings that are right one by one cannot be meant together.
    fn check(&self) -> Result<(), SettingsError> {
        let list = self.list();
        let set = |key: &str| list.iter().any(|setting| setting.key() == key && !setting.value.is_none());
        match TOGETHER.iter().find(|(needed, by)| set(by) && !set(needed)) {
            Some(&(needed, by)) => Err(SettingsError::Alone { needed, by }),
            None => Ok(()),
        }
    }
}
