// Package storage reads and writes the storage of the server: keys and values, SQL databases,
// objects.
//
//	import "era/storage"
//
//	storage.KV.Set("app", "greeting", "hello")
//	value, found, err := storage.KV.Get("app", "greeting")
//	storage.D1.Exec("app", "CREATE TABLE IF NOT EXISTS t (x)")
//	rows, err := storage.D1.Query("app", "SELECT * FROM t WHERE x > ?", 1)
//	storage.R2.Put("app", "photo.png", data)
//
// Inside a session nothing has to be set up, and no network is needed. Elsewhere ERA_STORAGE_URL is
// the address of the server and ERA_STORAGE_TOKEN (or ERA_API_TOKEN) a token; both are read at each
// call. What fails is an *Error. Goroutines may use all of this at once.
package storage

import "time"

// The three kinds of storage.
var (
	KV KVStorage
	D1 D1Storage
	R2 R2Storage
)

// Error tells which call failed, and why. Code is the server's name of the error, such as
// STORAGE_SCOPE, and Status its HTTP status; both are empty when there was no answer.
type Error struct {
	Message string
	Code    string
	Status  int
	cause   error
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns what the network said, if that was it.
func (e *Error) Unwrap() error { return e.cause }

// Option says more of a call; each method names those that it takes.
type Option func(*options)

type options struct {
	metadata any
	lifetime time.Duration
	prefix   string
	limit    int
}

// Metadata is stored beside a value (anything that JSON can hold) or an object (texts only).
func Metadata[V any](metadata map[string]V) Option {
	return func(o *options) { o.metadata = metadata }
}

// Lifetime is how long a key is kept, from now.
func Lifetime(duration time.Duration) Option {
	return func(o *options) { o.lifetime = duration }
}

// Prefix is what listed keys begin with.
func Prefix(prefix string) Option { return func(o *options) { o.prefix = prefix } }

// Limit is how many keys are listed at most; 0 stands for all of them.
func Limit(count int) Option { return func(o *options) { o.limit = count } }

func read(given []Option) options {
	chosen := options{limit: 100}
	for _, option := range given {
		option(&chosen)
	}
	return chosen
}
