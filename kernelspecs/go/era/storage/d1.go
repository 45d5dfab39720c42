package storage

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// D1Storage runs SQL in databases, one for each namespace; a database is made by the first Exec.
//
// Parameters stand for `?` in their order; a single map[string]any holds those for `:name`. A []byte
// is a blob, a time.Time goes as text of RFC 3339, NaN as NULL. Rows have int64, float64, string,
// []byte and nil.
type D1Storage struct{}

// Row is a row of a result, by the names of its columns.
type Row = map[string]any

// Result is what a statement did.
type Result struct {
	Results []Row // of a statement that returns rows
	Meta    Meta
}

// Meta tells of a statement's effects.
type Meta struct {
	Changes   int64 `json:"changes"`
	LastRowID int64 `json:"last_row_id"`
}

// Statement is one of a batch.
type Statement struct {
	SQL    string
	Params []any
}

type rawResult struct {
	Results []Row `json:"results"`
	Meta    Meta  `json:"meta"`
}

// Query returns the rows of a statement that only reads.
func (D1Storage) Query(namespace, sql string, params ...any) ([]Row, error) {
	var answer rawResult
	path := namespacePath("d1", namespace, "/query")
	err := sendStatement("D1 query", path, Statement{sql, params}, &answer, true)
	return answer.result().Results, err
}

// Exec runs a statement, or several without parameters.
func (D1Storage) Exec(namespace, sql string, params ...any) (Result, error) {
	var answer rawResult
	path := namespacePath("d1", namespace, "/exec")
	err := sendStatement("D1 exec", path, Statement{sql, params}, &answer, false)
	return answer.result(), err
}

// Batch runs statements in one transaction, all or none; it returns what each of them did.
func (D1Storage) Batch(namespace string, statements ...Statement) ([]Result, error) {
	bodies := []map[string]any{}
	for _, statement := range statements {
		body, err := statement.body()
		if err != nil {
			return nil, &Error{Message: "D1 batch failed: " + err.Error()}
		}
		bodies = append(bodies, body)
	}
	var answer struct {
		Results []rawResult `json:"results"`
	}
	path := namespacePath("d1", namespace, "/batch")
	if err := sendJSON("D1 batch", "POST", path, bodies, &answer, false); err != nil {
		return nil, err
	}
	results := []Result{}
	for _, one := range answer.Results {
		results = append(results, one.result())
	}
	return results, nil
}

func sendStatement(what, path string, statement Statement, answer any, isRepeatable bool) error {
	body, err := statement.body()
	if err != nil {
		return &Error{Message: what + " failed: " + err.Error()}
	}
	return sendJSON(what, "POST", path, body, answer, isRepeatable)
}

func (s Statement) body() (map[string]any, error) {
	body := map[string]any{"sql": s.SQL}
	if len(s.Params) == 1 {
		if named, ok := s.Params[0].(map[string]any); ok {
			converted := map[string]any{}
			for name, value := range named {
				var err error
				if converted[name], err = toJSON(value, name); err != nil {
					return nil, err
				}
			}
			body["params"] = converted
			return body, nil
		}
	}
	if len(s.Params) > 0 {
		converted := []any{}
		for i, value := range s.Params {
			one, err := toJSON(value, i+1)
			if err != nil {
				return nil, err
			}
			converted = append(converted, one)
		}
		body["params"] = converted
	}
	return body, nil
}

func toJSON(value, name any) (any, error) {
	switch value := value.(type) {
	case nil, string, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, json.Number:
		return value, nil
	case float32:
		return toJSON(float64(value), name)
	case float64:
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return nil, nil
		}
		return value, nil
	case []byte:
		return map[string]string{"base64": base64.StdEncoding.EncodeToString(value)}, nil
	case time.Time:
		return value.Format(time.RFC3339Nano), nil
	case fmt.Stringer:
		return value.String(), nil
	}
	return nil, fmt.Errorf("parameter %v is of type %T: pass a number, a text, bytes or nil", name, value)
}

func (r rawResult) result() Result {
	for _, row := range r.Results {
		for name, value := range row {
			row[name] = fromJSON(value)
		}
	}
	return Result{r.Results, r.Meta}
}

func fromJSON(value any) any {
	switch value := value.(type) {
	case json.Number:
		if number, err := value.Int64(); err == nil {
			return number
		}
		number, _ := value.Float64()
		return number
	case map[string]any:
		if text, ok := value["base64"].(string); ok && len(value) == 1 {
			if data, err := base64.StdEncoding.DecodeString(text); err == nil {
				return data
			}
		}
	}
	return value
}
