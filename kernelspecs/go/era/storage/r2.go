package storage

import (
	"bytes"
	"encoding/base64"
	"io"
	"regexp"
)

// R2Storage stores objects under keys, in namespaces.
type R2Storage struct{}

// R2Object is one object of a list.
type R2Object struct {
	Key      string `json:"key"`
	Size     int64  `json:"size"`
	Uploaded any    `json:"uploaded"`
	ETag     string `json:"etag"`
}

const metadataHeader = "X-Era-Meta-"

// Names and values that a header carries as they are.
var (
	headerName  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	headerValue = regexp.MustCompile(`^([!-~]([ !-~]*[!-~])?)?$`)
)

// Get returns the content of an object, and whether there is one.
func (R2Storage) Get(namespace, key string) (content []byte, found bool, err error) {
	return call{
		what: "R2 get", method: "GET", path: namespacePath("r2", namespace, "", "key", key),
		headers: map[string]string{"Accept": bytesType}, isRepeatable: true, missingCode: "OBJECT_NOT_FOUND",
	}.send()
}

// Put stores an object, durably. It takes Metadata, whose values are texts. An object of that key is
// replaced with its metadata.
func (R2Storage) Put(namespace, key string, content []byte, more ...Option) error {
	return put(namespace, key, bytes.NewReader(content), true, more)
}

// PutFrom stores what a reader has, piece by piece: it may be larger than the memory.
func (R2Storage) PutFrom(namespace, key string, content io.Reader, more ...Option) error {
	return put(namespace, key, content, false, more)
}

// Delete deletes an object; fine where there is none.
func (R2Storage) Delete(namespace, key string) error {
	path := namespacePath("r2", namespace, "", "key", key)
	_, _, err := call{what: "R2 delete", method: "DELETE", path: path, isRepeatable: true}.send()
	return err
}

// List returns objects, sorted by key. It takes Prefix and Limit, which is 100 otherwise.
func (R2Storage) List(namespace string, more ...Option) ([]R2Object, error) {
	return pages[R2Object]("R2 list", "r2", namespace, "objects", read(more))
}

func put(namespace, key string, content io.Reader, isRepeatable bool, more []Option) error {
	path := namespacePath("r2", namespace, "", "key", key)
	metadata, err := texts(read(more).metadata)
	if err != nil {
		return err
	}
	headers := map[string]string{"Content-Type": bytesType}
	for name, value := range metadata {
		if !headerName.MatchString(name) || !headerValue.MatchString(value) {
			return putJSON(path, content, metadata)
		}
		headers[metadataHeader+name] = value
	}
	asked := call{what: "R2 put", method: "PUT", path: path, body: content, headers: headers, isRepeatable: isRepeatable}
	_, _, err = asked.send()
	return err
}

func texts(metadata any) (map[string]string, error) {
	switch metadata := metadata.(type) {
	case nil:
		return nil, nil
	case map[string]string:
		return metadata, nil
	}
	return nil, &Error{Message: "R2 put failed: metadata of an object must be a map[string]string"}
}

// putJSON sends the object as JSON, which carries any metadata, and holds it in memory.
func putJSON(path string, content io.Reader, metadata map[string]string) error {
	data, err := io.ReadAll(content)
	if err != nil {
		return &Error{Message: "R2 put failed: " + err.Error(), cause: err}
	}
	body := map[string]any{"content": base64.StdEncoding.EncodeToString(data), "metadata": metadata}
	var answer map[string]any
	return sendJSON("R2 put", "PUT", path, body, &answer, true)
}
