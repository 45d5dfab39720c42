package storage

import "math"

// KVStorage stores texts under keys, in namespaces.
type KVStorage struct{}

// KVKey is one key of a list.
type KVKey struct {
	Name     string         `json:"name"`
	Metadata map[string]any `json:"metadata"`
}

// Get returns the value of a key, and whether there is one.
func (s KVStorage) Get(namespace, key string) (value string, found bool, err error) {
	value, _, found, err = s.GetWithMetadata(namespace, key)
	return value, found, err
}

// GetWithMetadata returns the value of a key and its metadata, and whether there is one.
func (KVStorage) GetWithMetadata(namespace, key string) (string, map[string]any, bool, error) {
	var answer struct {
		Value    string         `json:"value"`
		Metadata map[string]any `json:"metadata"`
	}
	asked := call{
		what: "KV get", method: "GET", path: namespacePath("kv", namespace, "", "key", key),
		isRepeatable: true, missingCode: "KEY_NOT_FOUND",
	}
	found, err := asked.load(&answer)
	if answer.Metadata == nil {
		answer.Metadata = map[string]any{}
	}
	return answer.Value, answer.Metadata, found, err
}

// Set sets the value of a key, durably. It takes Metadata and Lifetime; metadata that the key had
// is replaced, too.
func (KVStorage) Set(namespace, key, value string, more ...Option) error {
	chosen := read(more)
	body := map[string]any{"value": value}
	if chosen.metadata != nil {
		body["metadata"] = chosen.metadata
	}
	if chosen.lifetime != 0 {
		seconds := chosen.lifetime.Seconds()
		if seconds == math.Trunc(seconds) {
			body["expiration_ttl"] = int64(seconds)
		} else {
			body["expiration_ttl"] = seconds
		}
	}
	var answer map[string]any
	return sendJSON("KV set", "PUT", namespacePath("kv", namespace, "", "key", key), body, &answer, true)
}

// Delete deletes a key; fine where there is none.
func (KVStorage) Delete(namespace, key string) error {
	path := namespacePath("kv", namespace, "", "key", key)
	_, _, err := call{what: "KV delete", method: "DELETE", path: path, isRepeatable: true}.send()
	return err
}

// List returns keys, sorted. It takes Prefix and Limit, which is 100 otherwise.
func (KVStorage) List(namespace string, more ...Option) ([]KVKey, error) {
	return pages[KVKey]("KV list", "kv", namespace, "keys", read(more))
}
