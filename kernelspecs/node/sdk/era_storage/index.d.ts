/** Reads and writes the storage of the server: keys and values, SQL databases, objects. */

/** Node's Buffer where its types are known, which is a Uint8Array in any case. */
type Bytes = typeof globalThis extends { Buffer: { alloc(size: number): infer B } }
  ? B & Uint8Array
  : Uint8Array;

/** Any value that JSON has. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json | undefined };

/** A key as a list has it. */
export interface Key {
  name: string;
  metadata: Record<string, any>;
}

/** A value with its metadata. */
export interface Value {
  value: string;
  metadata: Record<string, any>;
}

/** A parameter of SQL: bytes are blobs, BigInts integers, dates texts, NaN is NULL. */
export type Parameter =
  | string
  | number
  | bigint
  | boolean
  | null
  | Date
  | ArrayBufferView
  | ArrayBufferLike;

/** Parameters: a list for `?`, an object for `:name`. */
export type Parameters = Iterable<Parameter> & object | { readonly [name: string]: Parameter };

/** A row by its columns: integers beyond 2^53 are BigInts, blobs are bytes. */
export type Row = Record<string, any>;

/** A statement with its parameters. */
export interface Statement {
  readonly sql: string;
  readonly params?: Parameters | null;
}

/** What the server tells about a statement that it ran. */
export interface Meta {
  /** In milliseconds. */
  duration: number;
  changes: number;
  last_row_id: number | bigint | null;
  rows_read: number;
  rows_written: number;
  size_after: number;
  changed_db: boolean;
  [name: string]: any;
}

/** The whole answer to a statement. */
export interface Answer<R = Row> {
  success: boolean;
  meta: Meta;
  /** The rows, if any. */
  results?: R[];
  [name: string]: any;
}

/** An object as a list has it. */
export interface StoredObject {
  key: string;
  /** In bytes. */
  size: number;
  /** When, in ISO 8601. */
  uploaded: string;
  etag: string;
  [name: string]: any;
}

/** A file as `fs.promises.open` returns it. */
export interface FileHandleLike {
  createReadStream(options?: any): AsyncIterable<any>;
}

/** A Blob. */
export interface BlobLike {
  readonly size: number;
  stream(): any;
}

/** A `file:` URL. */
export interface UrlLike {
  readonly href: string;
  readonly protocol: string;
}

/** Bytes, or what is sent piece by piece and may be larger than the memory. */
export type Content =
  | ArrayBufferView
  | ArrayBufferLike
  | AsyncIterable<ArrayBufferView | ArrayBufferLike>
  | Iterable<ArrayBufferView | ArrayBufferLike> & object
  | FileHandleLike
  | BlobLike
  | UrlLike;

/** A call on storage failed; its text tells which, and why. */
export class StorageError extends Error {
  constructor(
    message: string,
    options?: { code?: string | null; status?: number | null; cause?: unknown },
  );
  readonly name: "StorageError";
  /** The server's name of the error, such as `STORAGE_SCOPE`; null when there was no answer. */
  code: string | null;
  /** The HTTP status; null when there was no answer. */
  status: number | null;
}

/** Stores texts under keys, in namespaces. Every method rejects with a StorageError if it fails. */
export class KVStorage {
  private constructor();
  /** Resolves to the value of a key, null where there is no such key. */
  static get(namespace: string, key: string): Promise<string | null>;
  /** Resolves to the value of a key and its metadata, null where there is no such key. */
  static getWithMetadata(namespace: string, key: string): Promise<Value | null>;
  /**
   * Sets the value of a key, durably; `expirationTtl` is in seconds from now. Metadata that the key
   * had is replaced, too.
   */
  static set(
    namespace: string,
    key: string,
    value: string,
    metadata?: { readonly [name: string]: Json | undefined } | null,
    expirationTtl?: number | null,
  ): Promise<boolean>;
  /** Deletes a key; fine where there is none. */
  static delete(namespace: string, key: string): Promise<boolean>;
  /**
   * Resolves to up to `limit` keys (100) that begin with `prefix`, sorted. With a limit of null, to
   * all of them.
   */
  static list(namespace: string, prefix?: string, limit?: number | null): Promise<Key[]>;
}

/**
 * Runs SQL in databases, one for each namespace; a database is made by the first `exec`. Every method
 * rejects with a StorageError if it fails.
 */
export class D1Storage {
  private constructor();
  /** Resolves to the rows of a statement that only reads. */
  static query<R = Row>(namespace: string, sql: string, params?: Parameters | null): Promise<R[]>;
  /**
   * Runs a statement, or several without parameters; resolves to the whole answer, whose `meta` has
   * `changes` and `last_row_id`, among others.
   */
  static exec<R = Row>(
    namespace: string,
    sql: string,
    params?: Parameters | null,
  ): Promise<Answer<R>>;
  /** Runs statements in one transaction, all or none; resolves to the answer to each. */
  static batch<R = Row>(
    namespace: string,
    statements: Iterable<string | readonly [sql: string, params?: Parameters | null] | Statement>,
  ): Promise<Answer<R>[]>;
}

/** Stores objects under keys, in namespaces. Methods reject with a StorageError if they fail. */
export class R2Storage {
  private constructor();
  /** Resolves to the content of an object, null where there is no such object. */
  static get(namespace: string, key: string): Promise<Bytes | null>;
  /** Stores an object, durably. An object of that key is replaced with its metadata. */
  static put(
    namespace: string,
    key: string,
    content: Content,
    metadata?: { readonly [name: string]: string } | null,
  ): Promise<boolean>;
  /** Deletes an object; fine where there is none. */
  static delete(namespace: string, key: string): Promise<boolean>;
  /**
   * Resolves to up to `limit` objects (100) whose keys begin with `prefix`, sorted by key. With a
   * limit of null, to all of them.
   */
  static list(namespace: string, prefix?: string, limit?: number | null): Promise<StoredObject[]>;
}

export const kv: typeof KVStorage;
export const d1: typeof D1Storage;
export const r2: typeof R2Storage;
