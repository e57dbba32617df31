from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WireType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLOAT32: _ClassVar[WireType]
    BFLOAT16: _ClassVar[WireType]
    FLOAT16: _ClassVar[WireType]
    INT8: _ClassVar[WireType]
FLOAT32: WireType
BFLOAT16: WireType
FLOAT16: WireType
INT8: WireType

class Header(_message.Message):
    __slots__ = ("cluster_id", "epoch", "protocol", "shard", "max_staleness_s")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_S_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: int
    protocol: int
    shard: int
    max_staleness_s: float
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[int] = ..., protocol: _Optional[int] = ..., shard: _Optional[int] = ..., max_staleness_s: _Optional[float] = ...) -> None: ...

class ErrorInfo(_message.Message):
    __slots__ = ("kind", "message", "epoch", "retry_after_s", "layout")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INTERNAL: _ClassVar[ErrorInfo.Kind]
        INVALID_REQUEST: _ClassVar[ErrorInfo.Kind]
        TABLE_NOT_FOUND: _ClassVar[ErrorInfo.Kind]
        TABLE_EXISTS: _ClassVar[ErrorInfo.Kind]
        UNAVAILABLE: _ClassVar[ErrorInfo.Kind]
        OVERLOADED: _ClassVar[ErrorInfo.Kind]
        PUSH_UNRESOLVED: _ClassVar[ErrorInfo.Kind]
        STATE_LOST: _ClassVar[ErrorInfo.Kind]
        SNAPSHOT_CORRUPT: _ClassVar[ErrorInfo.Kind]
        UNAUTHORIZED: _ClassVar[ErrorInfo.Kind]
        WRONG_LAYOUT: _ClassVar[ErrorInfo.Kind]
        WRONG_CLUSTER: _ClassVar[ErrorInfo.Kind]
        MOVING: _ClassVar[ErrorInfo.Kind]
        RETRY_LATER: _ClassVar[ErrorInfo.Kind]
        UNAUTHENTICATED: _ClassVar[ErrorInfo.Kind]
        PERMISSION_DENIED: _ClassVar[ErrorInfo.Kind]
        UNCONFIRMED: _ClassVar[ErrorInfo.Kind]
        QUOTA_EXCEEDED: _ClassVar[ErrorInfo.Kind]
        CLIENT_FORGOTTEN: _ClassVar[ErrorInfo.Kind]
    INTERNAL: ErrorInfo.Kind
    INVALID_REQUEST: ErrorInfo.Kind
    TABLE_NOT_FOUND: ErrorInfo.Kind
    TABLE_EXISTS: ErrorInfo.Kind
    UNAVAILABLE: ErrorInfo.Kind
    OVERLOADED: ErrorInfo.Kind
    PUSH_UNRESOLVED: ErrorInfo.Kind
    STATE_LOST: ErrorInfo.Kind
    SNAPSHOT_CORRUPT: ErrorInfo.Kind
    UNAUTHORIZED: ErrorInfo.Kind
    WRONG_LAYOUT: ErrorInfo.Kind
    WRONG_CLUSTER: ErrorInfo.Kind
    MOVING: ErrorInfo.Kind
    RETRY_LATER: ErrorInfo.Kind
    UNAUTHENTICATED: ErrorInfo.Kind
    PERMISSION_DENIED: ErrorInfo.Kind
    UNCONFIRMED: ErrorInfo.Kind
    QUOTA_EXCEEDED: ErrorInfo.Kind
    CLIENT_FORGOTTEN: ErrorInfo.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    kind: ErrorInfo.Kind
    message: str
    epoch: int
    retry_after_s: float
    layout: Layout
    def __init__(self, kind: _Optional[_Union[ErrorInfo.Kind, str]] = ..., message: _Optional[str] = ..., epoch: _Optional[int] = ..., retry_after_s: _Optional[float] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ...) -> None: ...

class Recipe(_message.Message):
    __slots__ = ("name", "numbers", "words", "recipes")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class WordsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class RecipesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Recipe
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Recipe, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    name: str
    numbers: _containers.ScalarMap[str, float]
    words: _containers.ScalarMap[str, str]
    recipes: _containers.MessageMap[str, Recipe]
    def __init__(self, name: _Optional[str] = ..., numbers: _Optional[_Mapping[str, float]] = ..., words: _Optional[_Mapping[str, str]] = ..., recipes: _Optional[_Mapping[str, Recipe]] = ...) -> None: ...

class TableSpec(_message.Message):
    __slots__ = ("name", "num_embeddings", "row_shape", "dtype", "partition", "hash_ids", "optimizer", "initializer", "frozen", "wire", "constraint", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    ROW_SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    HASH_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    INITIALIZER_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_embeddings: int
    row_shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    partition: str
    hash_ids: bool
    optimizer: Recipe
    initializer: Recipe
    frozen: bool
    wire: str
    constraint: Recipe
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., num_embeddings: _Optional[int] = ..., row_shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., partition: _Optional[str] = ..., hash_ids: bool = ..., optimizer: _Optional[_Union[Recipe, _Mapping]] = ..., initializer: _Optional[_Union[Recipe, _Mapping]] = ..., frozen: bool = ..., wire: _Optional[str] = ..., constraint: _Optional[_Union[Recipe, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TableEntry(_message.Message):
    __slots__ = ("number", "spec", "lr", "lr_version", "made", "owner")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    LR_VERSION_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    number: int
    spec: TableSpec
    lr: float
    lr_version: int
    made: Dealing
    owner: str
    def __init__(self, number: _Optional[int] = ..., spec: _Optional[_Union[TableSpec, _Mapping]] = ..., lr: _Optional[float] = ..., lr_version: _Optional[int] = ..., made: _Optional[_Union[Dealing, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class Dealing(_message.Message):
    __slots__ = ("table", "partition", "hash_ids")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    HASH_IDS_FIELD_NUMBER: _ClassVar[int]
    table: int
    partition: str
    hash_ids: bool
    def __init__(self, table: _Optional[int] = ..., partition: _Optional[str] = ..., hash_ids: bool = ...) -> None: ...

class ShardAddress(_message.Message):
    __slots__ = ("index", "address", "incarnation")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    index: int
    address: str
    incarnation: int
    def __init__(self, index: _Optional[int] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("cluster_id", "epoch", "shards", "coordinator", "dealt")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    DEALT_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardAddress]
    coordinator: str
    dealt: _containers.RepeatedCompositeFieldContainer[Dealing]
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardAddress, _Mapping]]] = ..., coordinator: _Optional[str] = ..., dealt: _Optional[_Iterable[_Union[Dealing, _Mapping]]] = ...) -> None: ...

class DescribeLayoutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeLayoutReply(_message.Message):
    __slots__ = ("layout", "tables", "has_tables", "durability", "dead", "standbys", "has_standbys")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    HAS_TABLES_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    STANDBYS_FIELD_NUMBER: _ClassVar[int]
    HAS_STANDBYS_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    tables: _containers.RepeatedCompositeFieldContainer[TableEntry]
    has_tables: bool
    durability: str
    dead: _containers.RepeatedScalarFieldContainer[int]
    standbys: _containers.RepeatedCompositeFieldContainer[ShardAddress]
    has_standbys: bool
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ..., tables: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ..., has_tables: bool = ..., durability: _Optional[str] = ..., dead: _Optional[_Iterable[int]] = ..., standbys: _Optional[_Iterable[_Union[ShardAddress, _Mapping]]] = ..., has_standbys: bool = ...) -> None: ...

class LaneRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LaneReply(_message.Message):
    __slots__ = ("key", "port", "unix_address", "once", "tls", "user")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    UNIX_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ONCE_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    port: int
    unix_address: str
    once: bool
    tls: bool
    user: int
    def __init__(self, key: _Optional[bytes] = ..., port: _Optional[int] = ..., unix_address: _Optional[str] = ..., once: bool = ..., tls: bool = ..., user: _Optional[int] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthReply(_message.Message):
    __slots__ = ("role", "state", "incarnation", "epoch", "uptime_s", "index", "cluster_id", "log_bytes", "log_error", "wall_s", "standby", "standby_error", "standby_rows", "standby_behind", "standby_behind_s", "standby_unheard_s", "standby_pulls", "standby_refused", "lost", "unread", "passed_snapshot", "passed_why")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_ERROR_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    STANDBY_ERROR_FIELD_NUMBER: _ClassVar[int]
    STANDBY_ROWS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_BEHIND_FIELD_NUMBER: _ClassVar[int]
    STANDBY_BEHIND_S_FIELD_NUMBER: _ClassVar[int]
    STANDBY_UNHEARD_S_FIELD_NUMBER: _ClassVar[int]
    STANDBY_PULLS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_REFUSED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    PASSED_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PASSED_WHY_FIELD_NUMBER: _ClassVar[int]
    role: str
    state: str
    incarnation: int
    epoch: int
    uptime_s: float
    index: int
    cluster_id: str
    log_bytes: int
    log_error: str
    wall_s: float
    standby: str
    standby_error: str
    standby_rows: int
    standby_behind: int
    standby_behind_s: float
    standby_unheard_s: float
    standby_pulls: int
    standby_refused: int
    lost: str
    unread: str
    passed_snapshot: str
    passed_why: str
    def __init__(self, role: _Optional[str] = ..., state: _Optional[str] = ..., incarnation: _Optional[int] = ..., epoch: _Optional[int] = ..., uptime_s: _Optional[float] = ..., index: _Optional[int] = ..., cluster_id: _Optional[str] = ..., log_bytes: _Optional[int] = ..., log_error: _Optional[str] = ..., wall_s: _Optional[float] = ..., standby: _Optional[str] = ..., standby_error: _Optional[str] = ..., standby_rows: _Optional[int] = ..., standby_behind: _Optional[int] = ..., standby_behind_s: _Optional[float] = ..., standby_unheard_s: _Optional[float] = ..., standby_pulls: _Optional[int] = ..., standby_refused: _Optional[int] = ..., lost: _Optional[str] = ..., unread: _Optional[str] = ..., passed_snapshot: _Optional[str] = ..., passed_why: _Optional[str] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TableIds(_message.Message):
    __slots__ = ("table", "ids")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    table: int
    ids: bytes
    def __init__(self, table: _Optional[int] = ..., ids: _Optional[bytes] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("header", "tables", "wire", "trace_context")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    tables: _containers.RepeatedCompositeFieldContainer[TableIds]
    wire: WireType
    trace_context: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., tables: _Optional[_Iterable[_Union[TableIds, _Mapping]]] = ..., wire: _Optional[_Union[WireType, str]] = ..., trace_context: _Optional[bytes] = ...) -> None: ...

class TableRows(_message.Message):
    __slots__ = ("rows", "scales")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    rows: bytes
    scales: bytes
    def __init__(self, rows: _Optional[bytes] = ..., scales: _Optional[bytes] = ...) -> None: ...

class PullReply(_message.Message):
    __slots__ = ("tables", "wire")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[TableRows]
    wire: WireType
    def __init__(self, tables: _Optional[_Iterable[_Union[TableRows, _Mapping]]] = ..., wire: _Optional[_Union[WireType, str]] = ...) -> None: ...

class TableBags(_message.Message):
    __slots__ = ("table", "ids", "bags", "factors")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    BAGS_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    table: int
    ids: bytes
    bags: bytes
    factors: bytes
    def __init__(self, table: _Optional[int] = ..., ids: _Optional[bytes] = ..., bags: _Optional[bytes] = ..., factors: _Optional[bytes] = ...) -> None: ...

class PullBagsRequest(_message.Message):
    __slots__ = ("header", "tables", "wire", "trace_context")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    tables: _containers.RepeatedCompositeFieldContainer[TableBags]
    wire: WireType
    trace_context: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., tables: _Optional[_Iterable[_Union[TableBags, _Mapping]]] = ..., wire: _Optional[_Union[WireType, str]] = ..., trace_context: _Optional[bytes] = ...) -> None: ...

class PullBagsReply(_message.Message):
    __slots__ = ("tables", "wire")
    TABLES_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[TableRows]
    wire: WireType
    def __init__(self, tables: _Optional[_Iterable[_Union[TableRows, _Mapping]]] = ..., wire: _Optional[_Union[WireType, str]] = ...) -> None: ...

class PartName(_message.Message):
    __slots__ = ("epoch", "shard", "seq")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    shard: int
    seq: int
    def __init__(self, epoch: _Optional[int] = ..., shard: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class TableGrads(_message.Message):
    __slots__ = ("table", "ids", "values", "scales", "bags", "factors")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    BAGS_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    table: int
    ids: bytes
    values: bytes
    scales: bytes
    bags: bytes
    factors: bytes
    def __init__(self, table: _Optional[int] = ..., ids: _Optional[bytes] = ..., values: _Optional[bytes] = ..., scales: _Optional[bytes] = ..., bags: _Optional[bytes] = ..., factors: _Optional[bytes] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("header", "client_id", "client_epoch", "names", "low_water", "push", "kind", "wire", "tables", "oldest_epoch", "max_norm", "norm_type", "parts", "trace_context")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GRADIENTS: _ClassVar[PushRequest.Kind]
        ASSIGN: _ClassVar[PushRequest.Kind]
        RENORM: _ClassVar[PushRequest.Kind]
    GRADIENTS: PushRequest.Kind
    ASSIGN: PushRequest.Kind
    RENORM: PushRequest.Kind
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    LOW_WATER_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MAX_NORM_FIELD_NUMBER: _ClassVar[int]
    NORM_TYPE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    client_id: int
    client_epoch: int
    names: _containers.RepeatedCompositeFieldContainer[PartName]
    low_water: int
    push: int
    kind: PushRequest.Kind
    wire: WireType
    tables: _containers.RepeatedCompositeFieldContainer[TableGrads]
    oldest_epoch: int
    max_norm: float
    norm_type: float
    parts: int
    trace_context: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., client_id: _Optional[int] = ..., client_epoch: _Optional[int] = ..., names: _Optional[_Iterable[_Union[PartName, _Mapping]]] = ..., low_water: _Optional[int] = ..., push: _Optional[int] = ..., kind: _Optional[_Union[PushRequest.Kind, str]] = ..., wire: _Optional[_Union[WireType, str]] = ..., tables: _Optional[_Iterable[_Union[TableGrads, _Mapping]]] = ..., oldest_epoch: _Optional[int] = ..., max_norm: _Optional[float] = ..., norm_type: _Optional[float] = ..., parts: _Optional[int] = ..., trace_context: _Optional[bytes] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("duplicate",)
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    duplicate: bool
    def __init__(self, duplicate: bool = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("push", "pull", "trace_context")
    PUSH_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    push: PushRequest
    pull: PullRequest
    trace_context: bytes
    def __init__(self, push: _Optional[_Union[PushRequest, _Mapping]] = ..., pull: _Optional[_Union[PullRequest, _Mapping]] = ..., trace_context: _Optional[bytes] = ...) -> None: ...

class StepReply(_message.Message):
    __slots__ = ("push", "pull")
    PUSH_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    push: PushReply
    pull: PullReply
    def __init__(self, push: _Optional[_Union[PushReply, _Mapping]] = ..., pull: _Optional[_Union[PullReply, _Mapping]] = ...) -> None: ...

class CreateTableRequest(_message.Message):
    __slots__ = ("header", "table")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    table: TableEntry
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., table: _Optional[_Union[TableEntry, _Mapping]] = ...) -> None: ...

class DropTableRequest(_message.Message):
    __slots__ = ("header", "table")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    table: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., table: _Optional[int] = ...) -> None: ...

class ListTablesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTablesReply(_message.Message):
    __slots__ = ("tables",)
    TABLES_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[TableEntry]
    def __init__(self, tables: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ...) -> None: ...

class SetLearningRateRequest(_message.Message):
    __slots__ = ("header", "table", "lr", "version")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    header: Header
    table: int
    lr: float
    version: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., table: _Optional[int] = ..., lr: _Optional[float] = ..., version: _Optional[int] = ...) -> None: ...

class StatisticsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TableStatistics(_message.Message):
    __slots__ = ("table", "name", "rows", "bytes", "step", "sampled_ids", "hottest_share", "hottest_10_share")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_IDS_FIELD_NUMBER: _ClassVar[int]
    HOTTEST_SHARE_FIELD_NUMBER: _ClassVar[int]
    HOTTEST_10_SHARE_FIELD_NUMBER: _ClassVar[int]
    table: int
    name: str
    rows: int
    bytes: int
    step: int
    sampled_ids: int
    hottest_share: float
    hottest_10_share: float
    def __init__(self, table: _Optional[int] = ..., name: _Optional[str] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., step: _Optional[int] = ..., sampled_ids: _Optional[int] = ..., hottest_share: _Optional[float] = ..., hottest_10_share: _Optional[float] = ...) -> None: ...

class HottestIdsRequest(_message.Message):
    __slots__ = ("header", "table", "limit", "recent")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    table: int
    limit: int
    recent: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., table: _Optional[int] = ..., limit: _Optional[int] = ..., recent: bool = ...) -> None: ...

class HottestIdsReply(_message.Message):
    __slots__ = ("ids", "counts", "seen", "taken", "sampled_ids", "recent")
    IDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_IDS_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    counts: _containers.RepeatedScalarFieldContainer[int]
    seen: int
    taken: int
    sampled_ids: int
    recent: bytes
    def __init__(self, ids: _Optional[bytes] = ..., counts: _Optional[_Iterable[int]] = ..., seen: _Optional[int] = ..., taken: _Optional[int] = ..., sampled_ids: _Optional[int] = ..., recent: _Optional[bytes] = ...) -> None: ...

class StatisticsReply(_message.Message):
    __slots__ = ("index", "epoch", "tables", "pulls", "pulled_rows", "pushes", "pushed_rows", "duplicates", "refused", "clients", "resident_bytes", "uptime_s", "cpu_s", "durability", "log_bytes", "log_error", "braked_pushes", "braked_s", "counts", "traffic", "log_end", "log_safe", "metrics_address", "log_file", "lane_connections", "waiting_calls", "held_pushes", "receiving_rows", "snapshot_rows", "snapshot_bytes", "cluster_id", "standby_follows", "standby_behind", "standby_behind_bytes", "standby_behind_s", "version", "quotas", "standby_pulls", "standby_pulled_rows", "standby_refused")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    PULLED_ROWS_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    PUSHED_ROWS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_ERROR_FIELD_NUMBER: _ClassVar[int]
    BRAKED_PUSHES_FIELD_NUMBER: _ClassVar[int]
    BRAKED_S_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    LOG_END_FIELD_NUMBER: _ClassVar[int]
    LOG_SAFE_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FILE_FIELD_NUMBER: _ClassVar[int]
    LANE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_CALLS_FIELD_NUMBER: _ClassVar[int]
    HELD_PUSHES_FIELD_NUMBER: _ClassVar[int]
    RECEIVING_ROWS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ROWS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_BEHIND_FIELD_NUMBER: _ClassVar[int]
    STANDBY_BEHIND_BYTES_FIELD_NUMBER: _ClassVar[int]
    STANDBY_BEHIND_S_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_PULLS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_PULLED_ROWS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_REFUSED_FIELD_NUMBER: _ClassVar[int]
    index: int
    epoch: int
    tables: _containers.RepeatedCompositeFieldContainer[TableStatistics]
    pulls: int
    pulled_rows: int
    pushes: int
    pushed_rows: int
    duplicates: int
    refused: int
    clients: int
    resident_bytes: int
    uptime_s: float
    cpu_s: float
    durability: str
    log_bytes: int
    log_error: str
    braked_pushes: int
    braked_s: float
    counts: _containers.RepeatedCompositeFieldContainer[TableCounts]
    traffic: _containers.RepeatedCompositeFieldContainer[CallTraffic]
    log_end: int
    log_safe: int
    metrics_address: str
    log_file: str
    lane_connections: int
    waiting_calls: int
    held_pushes: int
    receiving_rows: int
    snapshot_rows: int
    snapshot_bytes: int
    cluster_id: str
    standby_follows: bool
    standby_behind: int
    standby_behind_bytes: int
    standby_behind_s: float
    version: str
    quotas: _containers.RepeatedCompositeFieldContainer[QuotaUse]
    standby_pulls: int
    standby_pulled_rows: int
    standby_refused: int
    def __init__(self, index: _Optional[int] = ..., epoch: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableStatistics, _Mapping]]] = ..., pulls: _Optional[int] = ..., pulled_rows: _Optional[int] = ..., pushes: _Optional[int] = ..., pushed_rows: _Optional[int] = ..., duplicates: _Optional[int] = ..., refused: _Optional[int] = ..., clients: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., uptime_s: _Optional[float] = ..., cpu_s: _Optional[float] = ..., durability: _Optional[str] = ..., log_bytes: _Optional[int] = ..., log_error: _Optional[str] = ..., braked_pushes: _Optional[int] = ..., braked_s: _Optional[float] = ..., counts: _Optional[_Iterable[_Union[TableCounts, _Mapping]]] = ..., traffic: _Optional[_Iterable[_Union[CallTraffic, _Mapping]]] = ..., log_end: _Optional[int] = ..., log_safe: _Optional[int] = ..., metrics_address: _Optional[str] = ..., log_file: _Optional[str] = ..., lane_connections: _Optional[int] = ..., waiting_calls: _Optional[int] = ..., held_pushes: _Optional[int] = ..., receiving_rows: _Optional[int] = ..., snapshot_rows: _Optional[int] = ..., snapshot_bytes: _Optional[int] = ..., cluster_id: _Optional[str] = ..., standby_follows: bool = ..., standby_behind: _Optional[int] = ..., standby_behind_bytes: _Optional[int] = ..., standby_behind_s: _Optional[float] = ..., version: _Optional[str] = ..., quotas: _Optional[_Iterable[_Union[QuotaUse, _Mapping]]] = ..., standby_pulls: _Optional[int] = ..., standby_pulled_rows: _Optional[int] = ..., standby_refused: _Optional[int] = ...) -> None: ...

class QuotaUse(_message.Message):
    __slots__ = ("principal", "what", "used", "limit", "refused")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    principal: str
    what: str
    used: int
    limit: int
    refused: int
    def __init__(self, principal: _Optional[str] = ..., what: _Optional[str] = ..., used: _Optional[int] = ..., limit: _Optional[int] = ..., refused: _Optional[int] = ...) -> None: ...

class TableCounts(_message.Message):
    __slots__ = ("table", "pulls", "pulled_rows", "pushes", "pushed_rows", "duplicates", "rejected")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    PULLED_ROWS_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    PUSHED_ROWS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    table: str
    pulls: int
    pulled_rows: int
    pushes: int
    pushed_rows: int
    duplicates: int
    rejected: int
    def __init__(self, table: _Optional[str] = ..., pulls: _Optional[int] = ..., pulled_rows: _Optional[int] = ..., pushes: _Optional[int] = ..., pushed_rows: _Optional[int] = ..., duplicates: _Optional[int] = ..., rejected: _Optional[int] = ...) -> None: ...

class CallTraffic(_message.Message):
    __slots__ = ("call", "table", "counts", "seconds", "received_bytes", "sent_bytes")
    CALL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    call: str
    table: str
    counts: _containers.RepeatedScalarFieldContainer[int]
    seconds: float
    received_bytes: int
    sent_bytes: int
    def __init__(self, call: _Optional[str] = ..., table: _Optional[str] = ..., counts: _Optional[_Iterable[int]] = ..., seconds: _Optional[float] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ...) -> None: ...

class AdoptRequest(_message.Message):
    __slots__ = ("layout", "index", "fresh", "tables", "retire", "turn", "snapshots", "ended", "quotas")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    RETIRE_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    index: int
    fresh: bool
    tables: _containers.RepeatedCompositeFieldContainer[TableEntry]
    retire: bool
    turn: int
    snapshots: _containers.RepeatedScalarFieldContainer[str]
    ended: bool
    quotas: str
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ..., index: _Optional[int] = ..., fresh: bool = ..., tables: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ..., retire: bool = ..., turn: _Optional[int] = ..., snapshots: _Optional[_Iterable[str]] = ..., ended: bool = ..., quotas: _Optional[str] = ...) -> None: ...

class StandByRequest(_message.Message):
    __slots__ = ("layout", "index", "turn", "lease_s")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    index: int
    turn: int
    lease_s: float
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ..., index: _Optional[int] = ..., turn: _Optional[int] = ..., lease_s: _Optional[float] = ...) -> None: ...

class SetStandbyRequest(_message.Message):
    __slots__ = ("cluster_id", "epoch", "turn", "standby", "waits", "lease_s", "replicated", "ended")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: int
    turn: int
    standby: int
    waits: bool
    lease_s: float
    replicated: bool
    ended: bool
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[int] = ..., turn: _Optional[int] = ..., standby: _Optional[int] = ..., waits: bool = ..., lease_s: _Optional[float] = ..., replicated: bool = ..., ended: bool = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("header", "standby", "feed", "tables", "since", "limit_bytes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    header: Header
    standby: int
    feed: int
    tables: _containers.RepeatedScalarFieldContainer[int]
    since: int
    limit_bytes: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., standby: _Optional[int] = ..., feed: _Optional[int] = ..., tables: _Optional[_Iterable[int]] = ..., since: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("rows", "ledger", "tables", "lsn", "log_end", "unlogged")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    LOG_END_FIELD_NUMBER: _ClassVar[int]
    UNLOGGED_FIELD_NUMBER: _ClassVar[int]
    rows: ReadPassReply
    ledger: ReadLedgerReply
    tables: _containers.RepeatedCompositeFieldContainer[TableEntry]
    lsn: int
    log_end: int
    unlogged: bool
    def __init__(self, rows: _Optional[_Union[ReadPassReply, _Mapping]] = ..., ledger: _Optional[_Union[ReadLedgerReply, _Mapping]] = ..., tables: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ..., lsn: _Optional[int] = ..., log_end: _Optional[int] = ..., unlogged: bool = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("header", "feed", "position", "heard", "reads", "quotas")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    feed: int
    position: int
    heard: int
    reads: bool
    quotas: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., feed: _Optional[int] = ..., position: _Optional[int] = ..., heard: _Optional[int] = ..., reads: bool = ..., quotas: _Optional[int] = ...) -> None: ...

class FedRecord(_message.Message):
    __slots__ = ("kind", "payload", "rows_after", "fold", "lsn", "log_end")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ROWS_AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    LOG_END_FIELD_NUMBER: _ClassVar[int]
    kind: int
    payload: bytes
    rows_after: int
    fold: int
    lsn: int
    log_end: int
    def __init__(self, kind: _Optional[int] = ..., payload: _Optional[bytes] = ..., rows_after: _Optional[int] = ..., fold: _Optional[int] = ..., lsn: _Optional[int] = ..., log_end: _Optional[int] = ...) -> None: ...

class FollowReply(_message.Message):
    __slots__ = ("number", "records", "end", "held_s", "reads_s", "alone", "quotas", "log_safe")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HELD_S_FIELD_NUMBER: _ClassVar[int]
    READS_S_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    LOG_SAFE_FIELD_NUMBER: _ClassVar[int]
    number: int
    records: _containers.RepeatedCompositeFieldContainer[FedRecord]
    end: int
    held_s: float
    reads_s: float
    alone: bool
    quotas: str
    log_safe: int
    def __init__(self, number: _Optional[int] = ..., records: _Optional[_Iterable[_Union[FedRecord, _Mapping]]] = ..., end: _Optional[int] = ..., held_s: _Optional[float] = ..., reads_s: _Optional[float] = ..., alone: bool = ..., quotas: _Optional[str] = ..., log_safe: _Optional[int] = ...) -> None: ...

class CutRequest(_message.Message):
    __slots__ = ("header", "turn", "id", "abort", "parent", "tables")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    header: Header
    turn: int
    id: str
    abort: bool
    parent: str
    tables: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., turn: _Optional[int] = ..., id: _Optional[str] = ..., abort: bool = ..., parent: _Optional[str] = ..., tables: _Optional[_Iterable[int]] = ...) -> None: ...

class CutProgressRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CutProgressReply(_message.Message):
    __slots__ = ("done", "rows", "bytes", "error", "stored")
    DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    done: bool
    rows: int
    bytes: int
    error: str
    stored: bytes
    def __init__(self, done: bool = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., error: _Optional[str] = ..., stored: _Optional[bytes] = ...) -> None: ...

class TrimLogRequest(_message.Message):
    __slots__ = ("header", "lsn", "snapshot")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    lsn: int
    snapshot: str
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., lsn: _Optional[int] = ..., snapshot: _Optional[str] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("source", "layout", "index", "tables", "turn", "snapshot", "handover")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_FIELD_NUMBER: _ClassVar[int]
    source: Layout
    layout: Layout
    index: int
    tables: _containers.RepeatedCompositeFieldContainer[TableEntry]
    turn: int
    snapshot: str
    handover: bool
    def __init__(self, source: _Optional[_Union[Layout, _Mapping]] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., index: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ..., turn: _Optional[int] = ..., snapshot: _Optional[str] = ..., handover: bool = ...) -> None: ...

class FreezeRequest(_message.Message):
    __slots__ = ("cluster_id", "epoch", "on", "turn", "report", "admitted")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: int
    on: bool
    turn: int
    report: bool
    admitted: _containers.RepeatedCompositeFieldContainer[LatestPush]
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[int] = ..., on: bool = ..., turn: _Optional[int] = ..., report: bool = ..., admitted: _Optional[_Iterable[_Union[LatestPush, _Mapping]]] = ...) -> None: ...

class FreezeReply(_message.Message):
    __slots__ = ("rows", "latest")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    rows: int
    latest: _containers.RepeatedCompositeFieldContainer[LatestPush]
    def __init__(self, rows: _Optional[int] = ..., latest: _Optional[_Iterable[_Union[LatestPush, _Mapping]]] = ...) -> None: ...

class LatestPush(_message.Message):
    __slots__ = ("client_id", "push", "shares", "forgotten")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    push: int
    shares: _containers.RepeatedCompositeFieldContainer[PushShare]
    forgotten: bool
    def __init__(self, client_id: _Optional[int] = ..., push: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[PushShare, _Mapping]]] = ..., forgotten: bool = ...) -> None: ...

class PushShare(_message.Message):
    __slots__ = ("epoch", "shard", "count", "of")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    shard: int
    count: int
    of: int
    def __init__(self, epoch: _Optional[int] = ..., shard: _Optional[int] = ..., count: _Optional[int] = ..., of: _Optional[int] = ...) -> None: ...

class BrakeRequest(_message.Message):
    __slots__ = ("cluster_id", "epoch", "turn", "row_s")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    ROW_S_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    epoch: int
    turn: int
    row_s: float
    def __init__(self, cluster_id: _Optional[str] = ..., epoch: _Optional[int] = ..., turn: _Optional[int] = ..., row_s: _Optional[float] = ...) -> None: ...

class ReadPassRequest(_message.Message):
    __slots__ = ("header", "tables", "new_n", "new_index", "since", "generation", "last", "at", "cursor", "limit_bytes", "mark", "marks", "dealt", "ledger_bytes", "wait_s")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    NEW_N_FIELD_NUMBER: _ClassVar[int]
    NEW_INDEX_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    DEALT_FIELD_NUMBER: _ClassVar[int]
    LEDGER_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    header: Header
    tables: _containers.RepeatedScalarFieldContainer[int]
    new_n: int
    new_index: int
    since: int
    generation: int
    last: bool
    at: int
    cursor: int
    limit_bytes: int
    mark: bool
    marks: _containers.RepeatedCompositeFieldContainer[PassMark]
    dealt: _containers.RepeatedCompositeFieldContainer[Dealing]
    ledger_bytes: int
    wait_s: float
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., tables: _Optional[_Iterable[int]] = ..., new_n: _Optional[int] = ..., new_index: _Optional[int] = ..., since: _Optional[int] = ..., generation: _Optional[int] = ..., last: bool = ..., at: _Optional[int] = ..., cursor: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., mark: bool = ..., marks: _Optional[_Iterable[_Union[PassMark, _Mapping]]] = ..., dealt: _Optional[_Iterable[_Union[Dealing, _Mapping]]] = ..., ledger_bytes: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class PassMark(_message.Message):
    __slots__ = ("at", "cursor", "since")
    AT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    at: int
    cursor: int
    since: int
    def __init__(self, at: _Optional[int] = ..., cursor: _Optional[int] = ..., since: _Optional[int] = ...) -> None: ...

class MovedRows(_message.Message):
    __slots__ = ("table", "ids", "values", "slots")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    table: int
    ids: bytes
    values: bytes
    slots: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, table: _Optional[int] = ..., ids: _Optional[bytes] = ..., values: _Optional[bytes] = ..., slots: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReadPassReply(_message.Message):
    __slots__ = ("shard", "generation", "last", "tables", "at", "cursor", "done", "rows", "steps", "calls", "ledger", "held_s")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    HELD_S_FIELD_NUMBER: _ClassVar[int]
    shard: int
    generation: int
    last: bool
    tables: _containers.RepeatedCompositeFieldContainer[MovedRows]
    at: int
    cursor: int
    done: bool
    rows: int
    steps: _containers.RepeatedScalarFieldContainer[int]
    calls: int
    ledger: ReadLedgerReply
    held_s: float
    def __init__(self, shard: _Optional[int] = ..., generation: _Optional[int] = ..., last: bool = ..., tables: _Optional[_Iterable[_Union[MovedRows, _Mapping]]] = ..., at: _Optional[int] = ..., cursor: _Optional[int] = ..., done: bool = ..., rows: _Optional[int] = ..., steps: _Optional[_Iterable[int]] = ..., calls: _Optional[int] = ..., ledger: _Optional[_Union[ReadLedgerReply, _Mapping]] = ..., held_s: _Optional[float] = ...) -> None: ...

class ReadRowsRequest(_message.Message):
    __slots__ = ("header", "table", "cursor", "limit_bytes", "new_n", "new_index", "ids_only")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEW_N_FIELD_NUMBER: _ClassVar[int]
    NEW_INDEX_FIELD_NUMBER: _ClassVar[int]
    IDS_ONLY_FIELD_NUMBER: _ClassVar[int]
    header: Header
    table: int
    cursor: int
    limit_bytes: int
    new_n: int
    new_index: int
    ids_only: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., table: _Optional[int] = ..., cursor: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., new_n: _Optional[int] = ..., new_index: _Optional[int] = ..., ids_only: bool = ...) -> None: ...

class ReadRowsReply(_message.Message):
    __slots__ = ("ids", "values", "slots", "next", "step")
    IDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    values: bytes
    slots: _containers.RepeatedScalarFieldContainer[bytes]
    next: int
    step: int
    def __init__(self, ids: _Optional[bytes] = ..., values: _Optional[bytes] = ..., slots: _Optional[_Iterable[bytes]] = ..., next: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class ReadLedgerRequest(_message.Message):
    __slots__ = ("header", "cursor", "limit_bytes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    header: Header
    cursor: int
    limit_bytes: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., cursor: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class LedgerOrigin(_message.Message):
    __slots__ = ("epoch", "shard", "low_water", "applied")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LOW_WATER_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    shard: int
    low_water: int
    applied: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[int] = ..., shard: _Optional[int] = ..., low_water: _Optional[int] = ..., applied: _Optional[_Iterable[int]] = ...) -> None: ...

class LedgerClient(_message.Message):
    __slots__ = ("client_id", "client_epoch", "origins", "push", "step_tables", "steps", "latest", "shares")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    STEP_TABLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    client_id: int
    client_epoch: int
    origins: _containers.RepeatedCompositeFieldContainer[LedgerOrigin]
    push: int
    step_tables: _containers.RepeatedScalarFieldContainer[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    latest: int
    shares: _containers.RepeatedCompositeFieldContainer[PushShare]
    def __init__(self, client_id: _Optional[int] = ..., client_epoch: _Optional[int] = ..., origins: _Optional[_Iterable[_Union[LedgerOrigin, _Mapping]]] = ..., push: _Optional[int] = ..., step_tables: _Optional[_Iterable[int]] = ..., steps: _Optional[_Iterable[int]] = ..., latest: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[PushShare, _Mapping]]] = ...) -> None: ...

class ReadLedgerReply(_message.Message):
    __slots__ = ("clients", "next", "forgotten", "forgotten_at", "evicted", "shard")
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_AT_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedCompositeFieldContainer[LedgerClient]
    next: int
    forgotten: bytes
    forgotten_at: int
    evicted: _containers.RepeatedCompositeFieldContainer[LatestPush]
    shard: int
    def __init__(self, clients: _Optional[_Iterable[_Union[LedgerClient, _Mapping]]] = ..., next: _Optional[int] = ..., forgotten: _Optional[bytes] = ..., forgotten_at: _Optional[int] = ..., evicted: _Optional[_Iterable[_Union[LatestPush, _Mapping]]] = ..., shard: _Optional[int] = ...) -> None: ...

class ProgressRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProgressReply(_message.Message):
    __slots__ = ("epoch", "done", "rows", "bytes", "error", "error_kind", "passes", "left", "left_s", "stuck", "rows_total", "moved", "slowest_bytes", "held_bytes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_KIND_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    LEFT_S_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    ROWS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    SLOWEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    done: bool
    rows: int
    bytes: int
    error: str
    error_kind: ErrorInfo.Kind
    passes: int
    left: int
    left_s: float
    stuck: int
    rows_total: int
    moved: int
    slowest_bytes: int
    held_bytes: int
    def __init__(self, epoch: _Optional[int] = ..., done: bool = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., error: _Optional[str] = ..., error_kind: _Optional[_Union[ErrorInfo.Kind, str]] = ..., passes: _Optional[int] = ..., left: _Optional[int] = ..., left_s: _Optional[float] = ..., stuck: _Optional[int] = ..., rows_total: _Optional[int] = ..., moved: _Optional[int] = ..., slowest_bytes: _Optional[int] = ..., held_bytes: _Optional[int] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("cluster_id", "keep")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    keep: bool
    def __init__(self, cluster_id: _Optional[str] = ..., keep: bool = ...) -> None: ...

class DefineTableRequest(_message.Message):
    __slots__ = ("spec", "cluster_id")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    spec: TableSpec
    cluster_id: str
    def __init__(self, spec: _Optional[_Union[TableSpec, _Mapping]] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class DefineTableReply(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: TableEntry
    def __init__(self, table: _Optional[_Union[TableEntry, _Mapping]] = ...) -> None: ...

class RemoveTableRequest(_message.Message):
    __slots__ = ("name", "cluster_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    cluster_id: str
    def __init__(self, name: _Optional[str] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class AdjustTableRequest(_message.Message):
    __slots__ = ("name", "lr", "cluster_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LR_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    lr: float
    cluster_id: str
    def __init__(self, name: _Optional[str] = ..., lr: _Optional[float] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("shards", "cluster_id", "dealings", "max_extra_bytes")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    DEALINGS_FIELD_NUMBER: _ClassVar[int]
    MAX_EXTRA_BYTES_FIELD_NUMBER: _ClassVar[int]
    shards: int
    cluster_id: str
    dealings: _containers.RepeatedCompositeFieldContainer[TableDealing]
    max_extra_bytes: int
    def __init__(self, shards: _Optional[int] = ..., cluster_id: _Optional[str] = ..., dealings: _Optional[_Iterable[_Union[TableDealing, _Mapping]]] = ..., max_extra_bytes: _Optional[int] = ...) -> None: ...

class TableDealing(_message.Message):
    __slots__ = ("name", "partition", "hash_ids")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    HASH_IDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    partition: str
    hash_ids: bool
    def __init__(self, name: _Optional[str] = ..., partition: _Optional[str] = ..., hash_ids: bool = ...) -> None: ...

class ScaleProgressRequest(_message.Message):
    __slots__ = ("scaling", "cluster_id")
    SCALING_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    scaling: int
    cluster_id: str
    def __init__(self, scaling: _Optional[int] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class CancelScaleRequest(_message.Message):
    __slots__ = ("cluster_id",)
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    def __init__(self, cluster_id: _Optional[str] = ...) -> None: ...

class SetAutoscaleRequest(_message.Message):
    __slots__ = ("cluster_id", "policy")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    policy: str
    def __init__(self, cluster_id: _Optional[str] = ..., policy: _Optional[str] = ...) -> None: ...

class SetQuotasRequest(_message.Message):
    __slots__ = ("cluster_id", "quotas")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    quotas: str
    def __init__(self, cluster_id: _Optional[str] = ..., quotas: _Optional[str] = ...) -> None: ...

class SetReplicasRequest(_message.Message):
    __slots__ = ("cluster_id", "replicas")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    replicas: str
    def __init__(self, cluster_id: _Optional[str] = ..., replicas: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("cluster_id", "node", "undo")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    UNDO_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    node: str
    undo: bool
    def __init__(self, cluster_id: _Optional[str] = ..., node: _Optional[str] = ..., undo: bool = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("node", "address", "shards", "coordinator", "move", "standbys")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    STANDBYS_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    shards: _containers.RepeatedScalarFieldContainer[int]
    coordinator: bool
    move: ScaleReply
    standbys: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., shards: _Optional[_Iterable[int]] = ..., coordinator: bool = ..., move: _Optional[_Union[ScaleReply, _Mapping]] = ..., standbys: _Optional[_Iterable[int]] = ...) -> None: ...

class UpgradeRequest(_message.Message):
    __slots__ = ("cluster_id", "environment")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    environment: str
    def __init__(self, cluster_id: _Optional[str] = ..., environment: _Optional[str] = ...) -> None: ...

class ScaleReply(_message.Message):
    __slots__ = ("state", "epoch", "pause_s", "rows", "rows_total", "error", "seconds", "scaling", "shards", "shards_before", "passes", "left", "rows_per_s", "brake_row_s", "moved", "dealings", "held_bytes", "handed_over", "arrivals")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BRAKE_ROW_S_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    DEALINGS_FIELD_NUMBER: _ClassVar[int]
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    HANDED_OVER_FIELD_NUMBER: _ClassVar[int]
    ARRIVALS_FIELD_NUMBER: _ClassVar[int]
    state: str
    epoch: int
    pause_s: float
    rows: int
    rows_total: int
    error: str
    seconds: float
    scaling: int
    shards: int
    shards_before: int
    passes: int
    left: int
    rows_per_s: float
    brake_row_s: float
    moved: int
    dealings: _containers.RepeatedCompositeFieldContainer[TableDealing]
    held_bytes: int
    handed_over: _containers.RepeatedScalarFieldContainer[int]
    arrivals: _containers.RepeatedCompositeFieldContainer[ShardArrival]
    def __init__(self, state: _Optional[str] = ..., epoch: _Optional[int] = ..., pause_s: _Optional[float] = ..., rows: _Optional[int] = ..., rows_total: _Optional[int] = ..., error: _Optional[str] = ..., seconds: _Optional[float] = ..., scaling: _Optional[int] = ..., shards: _Optional[int] = ..., shards_before: _Optional[int] = ..., passes: _Optional[int] = ..., left: _Optional[int] = ..., rows_per_s: _Optional[float] = ..., brake_row_s: _Optional[float] = ..., moved: _Optional[int] = ..., dealings: _Optional[_Iterable[_Union[TableDealing, _Mapping]]] = ..., held_bytes: _Optional[int] = ..., handed_over: _Optional[_Iterable[int]] = ..., arrivals: _Optional[_Iterable[_Union[ShardArrival, _Mapping]]] = ...) -> None: ...

class ShardArrival(_message.Message):
    __slots__ = ("shard", "rows")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    rows: int
    def __init__(self, shard: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class AcceptLossRequest(_message.Message):
    __slots__ = ("shard", "cluster_id", "force")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    cluster_id: str
    force: bool
    def __init__(self, shard: _Optional[int] = ..., cluster_id: _Optional[str] = ..., force: bool = ...) -> None: ...

class TakeSnapshotRequest(_message.Message):
    __slots__ = ("cluster_id", "extra", "key", "asks", "full", "keep")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    extra: bytes
    key: int
    asks: bool
    full: bool
    keep: int
    def __init__(self, cluster_id: _Optional[str] = ..., extra: _Optional[bytes] = ..., key: _Optional[int] = ..., asks: bool = ..., full: bool = ..., keep: _Optional[int] = ...) -> None: ...

class TakeSnapshotReply(_message.Message):
    __slots__ = ("id", "url", "rows", "bytes", "pause_s", "state", "seconds", "parent")
    ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    url: str
    rows: int
    bytes: int
    pause_s: float
    state: str
    seconds: float
    parent: str
    def __init__(self, id: _Optional[str] = ..., url: _Optional[str] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., pause_s: _Optional[float] = ..., state: _Optional[str] = ..., seconds: _Optional[float] = ..., parent: _Optional[str] = ...) -> None: ...

class DescribeRestoredRequest(_message.Message):
    __slots__ = ("cluster_id",)
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    def __init__(self, cluster_id: _Optional[str] = ...) -> None: ...

class DescribeRestoredReply(_message.Message):
    __slots__ = ("id", "url", "rows", "bytes", "parent", "extra", "seconds", "incarnations", "epoch")
    ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    id: str
    url: str
    rows: int
    bytes: int
    parent: str
    extra: bytes
    seconds: float
    incarnations: _containers.RepeatedScalarFieldContainer[int]
    epoch: int
    def __init__(self, id: _Optional[str] = ..., url: _Optional[str] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., parent: _Optional[str] = ..., extra: _Optional[bytes] = ..., seconds: _Optional[float] = ..., incarnations: _Optional[_Iterable[int]] = ..., epoch: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "node", "health", "statistics", "pid", "standby", "lost", "unread", "passed_snapshot", "passed_why", "stays_dead")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    PASSED_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PASSED_WHY_FIELD_NUMBER: _ClassVar[int]
    STAYS_DEAD_FIELD_NUMBER: _ClassVar[int]
    shard: ShardAddress
    node: str
    health: str
    statistics: StatisticsReply
    pid: int
    standby: StandbyStatus
    lost: str
    unread: str
    passed_snapshot: str
    passed_why: str
    stays_dead: str
    def __init__(self, shard: _Optional[_Union[ShardAddress, _Mapping]] = ..., node: _Optional[str] = ..., health: _Optional[str] = ..., statistics: _Optional[_Union[StatisticsReply, _Mapping]] = ..., pid: _Optional[int] = ..., standby: _Optional[_Union[StandbyStatus, _Mapping]] = ..., lost: _Optional[str] = ..., unread: _Optional[str] = ..., passed_snapshot: _Optional[str] = ..., passed_why: _Optional[str] = ..., stays_dead: _Optional[str] = ...) -> None: ...

class StandbyStatus(_message.Message):
    __slots__ = ("address", "incarnation", "node", "pid", "state", "rows", "error", "pulls", "refused")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    address: str
    incarnation: int
    node: str
    pid: int
    state: str
    rows: int
    error: str
    pulls: int
    refused: int
    def __init__(self, address: _Optional[str] = ..., incarnation: _Optional[int] = ..., node: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., rows: _Optional[int] = ..., error: _Optional[str] = ..., pulls: _Optional[int] = ..., refused: _Optional[int] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("layout", "tables", "shards", "name", "config_hash", "launcher", "config", "unfinished", "durability", "snapshot", "earlier_snapshot", "scaling", "autoscale", "metrics_address", "log_file", "drained", "version")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_HASH_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    EARLIER_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    AUTOSCALE_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOG_FILE_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    layout: Layout
    tables: _containers.RepeatedCompositeFieldContainer[TableEntry]
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    name: str
    config_hash: str
    launcher: str
    config: str
    unfinished: _containers.RepeatedScalarFieldContainer[str]
    durability: str
    snapshot: NewestSnapshot
    earlier_snapshot: NewestSnapshot
    scaling: ScaleReply
    autoscale: str
    metrics_address: str
    log_file: str
    drained: _containers.RepeatedScalarFieldContainer[str]
    version: str
    def __init__(self, layout: _Optional[_Union[Layout, _Mapping]] = ..., tables: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., name: _Optional[str] = ..., config_hash: _Optional[str] = ..., launcher: _Optional[str] = ..., config: _Optional[str] = ..., unfinished: _Optional[_Iterable[str]] = ..., durability: _Optional[str] = ..., snapshot: _Optional[_Union[NewestSnapshot, _Mapping]] = ..., earlier_snapshot: _Optional[_Union[NewestSnapshot, _Mapping]] = ..., scaling: _Optional[_Union[ScaleReply, _Mapping]] = ..., autoscale: _Optional[str] = ..., metrics_address: _Optional[str] = ..., log_file: _Optional[str] = ..., drained: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ...) -> None: ...

class NewestSnapshot(_message.Message):
    __slots__ = ("id", "url", "age_s", "created_s", "rows", "bytes", "seconds", "pause_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    CREATED_S_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    url: str
    age_s: float
    created_s: float
    rows: int
    bytes: int
    seconds: float
    pause_s: float
    def __init__(self, id: _Optional[str] = ..., url: _Optional[str] = ..., age_s: _Optional[float] = ..., created_s: _Optional[float] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., seconds: _Optional[float] = ..., pause_s: _Optional[float] = ...) -> None: ...
