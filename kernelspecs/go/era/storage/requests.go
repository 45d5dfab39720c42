package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	maxPage        = 1000 // entries that the server lists at once
	maxErrorLength = 300  // bytes of an answer that is no JSON
	bytesType      = "application/octet-stream"
)

// call is one request: what names it for people, path lies below /api/storage.
type call struct {
	what, method, path string
	body               io.Reader
	headers            map[string]string
	isRepeatable       bool   // a second time does no harm
	missingCode        string // of the 404 that only says that the key is not there
}

// namespacePath returns the path of a namespace. A key is in its query: programs on the way change
// `.` and `..` in a path.
func namespacePath(kind, namespace, rest string, query ...string) string {
	path := kind + "/" + escape(namespace) + rest
	for i := 0; i+1 < len(query); i += 2 {
		separator := "&"
		if i == 0 {
			separator = "?"
		}
		path += separator + query[i] + "=" + escape(query[i+1])
	}
	return path
}

func escape(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// sendJSON sends a value and reads the answer into another one.
func sendJSON(what, method, path string, value, answer any, isRepeatable bool) error {
	body, err := json.Marshal(value)
	if err != nil {
		return &Error{Message: fmt.Sprintf("%s failed: %v", what, err), cause: err}
	}
	_, err = call{
		what: what, method: method, path: path, body: bytes.NewReader(body), isRepeatable: isRepeatable,
		headers: map[string]string{"Content-Type": "application/json"},
	}.load(answer)
	return err
}

// load sends a call and reads the JSON of its answer; false says that the key is not there.
func (c call) load(answer any) (bool, error) {
	body, found, err := c.send()
	if err != nil || !found {
		return false, err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := decoder.Decode(answer); err != nil {
		return false, &Error{Message: fmt.Sprintf("%s failed: the answer is not the server's: %s", c.what, start(body))}
	}
	return true, nil
}

// send returns the body of the answer; false says that the key is not there.
func (c call) send() (body []byte, found bool, err error) {
	status, body, err := c.exchange()
	if err != nil {
		return nil, false, &Error{Message: fmt.Sprintf("%s failed: %v", c.what, err), cause: err}
	}
	if status >= 200 && status < 300 {
		return body, true, nil
	}
	var problem struct{ Error, Message, Code, Details any }
	if json.Unmarshal(body, &problem) != nil {
		problem.Error, problem.Message = fmt.Sprintf("HTTP status %d", status), start(body)
	}
	code, _ := problem.Code.(string)
	if status == http.StatusNotFound && code != "" && code == c.missingCode {
		return nil, false, nil
	}
	sentence := c.what + " failed"
	for _, part := range []any{problem.Error, problem.Message} {
		if text, ok := part.(string); ok && text != "" && !strings.Contains(sentence, text) {
			sentence += ": " + text
		}
	}
	if text, ok := problem.Details.(string); ok && !strings.Contains(sentence, text) {
		sentence += " (" + text + ")"
	}
	return nil, false, &Error{Message: sentence, Code: code, Status: status}
}

func (c call) exchange() (int, []byte, error) {
	base, client, err := connect(os.Getenv("ERA_STORAGE_URL"))
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequest(c.method, base+"/api/storage/"+c.path, c.body)
	if err != nil {
		return 0, nil, err
	}
	for name, value := range c.headers {
		request.Header.Set(name, value)
	}
	token := os.Getenv("ERA_STORAGE_TOKEN")
	if token == "" {
		token = os.Getenv("ERA_API_TOKEN")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if c.isRepeatable { // is not sent: it tells the client that it may ask again
		request.Header["X-Idempotency-Key"] = nil
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

var clients struct {
	sync.Mutex
	byURL map[string]*http.Client
}

// connect returns what comes before the path in addresses, and the client for an ERA_STORAGE_URL.
func connect(address string) (string, *http.Client, error) {
	base, socket := strings.TrimRight(address, "/"), ""
	switch {
	case address == "":
		return "", nil, fmt.Errorf("ERA_STORAGE_URL is not set")
	case strings.HasPrefix(address, "http+unix://"):
		host, path, _ := strings.Cut(strings.TrimPrefix(base, "http+unix://"), "/")
		var err error
		if socket, err = url.PathUnescape(host); err != nil {
			return "", nil, err
		}
		base = strings.TrimRight("http://localhost/"+path, "/")
	case !strings.HasPrefix(address, "http://") && !strings.HasPrefix(address, "https://"):
		return "", nil, fmt.Errorf("ERA_STORAGE_URL must begin with http://, https:// or http+unix://")
	}
	clients.Lock()
	defer clients.Unlock()
	client := clients.byURL[address]
	if client == nil {
		client = newClient(socket)
		if clients.byURL == nil {
			clients.byURL = map[string]*http.Client{}
		}
		clients.byURL[address] = client
	}
	return base, client, nil
}

func newClient(socket string) *http.Client {
	dialer := &net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 8, // requests of a session that the server works on at once
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if socket != "" {
				network, address = "unix", socket
			}
			return dialer.DialContext(ctx, network, address)
		},
	}
	return &http.Client{Transport: transport}
}

// pages returns the entries of a list, page by page.
func pages[E any](what, kind, namespace, name string, chosen options) ([]E, error) {
	entries := []E{}
	cursor := ""
	for chosen.limit == 0 || len(entries) < chosen.limit {
		size := maxPage
		if chosen.limit > 0 {
			size = min(chosen.limit-len(entries), maxPage)
		}
		query := []string{"limit", fmt.Sprint(size)}
		if chosen.prefix != "" {
			query = append(query, "prefix", chosen.prefix)
		}
		if cursor != "" {
			query = append(query, "cursor", cursor)
		}
		var page map[string]json.RawMessage
		asked := call{what: what, method: "GET", path: namespacePath(kind, namespace, "", query...), isRepeatable: true}
		if _, err := asked.load(&page); err != nil {
			return nil, err
		}
		var found []E
		if err := json.Unmarshal(page[name], &found); err != nil {
			return nil, &Error{Message: what + " failed: the answer is not the server's"}
		}
		entries = append(entries, found...)
		cursor = ""
		if json.Unmarshal(page["cursor"], &cursor) != nil || cursor == "" {
			break
		}
	}
	return entries, nil
}

func start(body []byte) string {
	return strings.TrimSpace(strings.ToValidUTF8(string(body[:min(len(body), maxErrorLength)]), "\ufffd"))
}
