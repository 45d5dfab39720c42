// Package display shows rich values to whoever follows a run: HTML, images, JSON, or any bundle of
// MIME types. Outside a session it prints their text.
//
//	import "era/display"
//
//	display.HTML("<b>bold</b>")
//	display.PNG(data)
//	place := display.New()
//	place.HTML("<b>1</b>")
//	place.HTML("<b>2</b>") // in the place of the first
package display

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"era/cellrt"
	"era/internal/connection"
	"fmt"
	"image"
	"image/png"
	"os"
	"sync/atomic"
)

func init() { cellrt.Publish = publishResult }

// Bundle holds one value in several forms, by MIME type: text, or anything that JSON can hold.
type Bundle = map[string]any

// Displayer is implemented by values that know their richer forms.
type Displayer interface{ Display() Bundle }

// HTMLer is implemented by values that have a form in HTML.
type HTMLer interface{ HTML() string }

// HTML shows HTML.
func HTML(text string) { Show(Bundle{"text/html": text}) }

// Markdown shows Markdown.
func Markdown(text string) { Show(Bundle{"text/markdown": text}) }

// Latex shows a formula.
func Latex(text string) { Show(Bundle{"text/latex": text}) }

// SVG shows an image in SVG.
func SVG(text string) { Show(Bundle{"image/svg+xml": text}) }

// Text shows plain text.
func Text(text string) { Show(Bundle{"text/plain": text}) }

// PNG shows an image in PNG.
func PNG(data []byte) { Show(Bundle{"image/png": base64.StdEncoding.EncodeToString(data)}) }

// JPEG shows an image in JPEG.
func JPEG(data []byte) { Show(Bundle{"image/jpeg": base64.StdEncoding.EncodeToString(data)}) }

// JSON shows a value as JSON. It panics for a value that JSON cannot hold.
func JSON(value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	Show(Bundle{"application/json": json.RawMessage(text)})
}

// Image shows an image of the standard library's kind, as PNG.
func Image(picture image.Image) {
	var data bytes.Buffer
	if err := png.Encode(&data, picture); err != nil {
		panic(err)
	}
	PNG(data.Bytes())
}

// Show shows a bundle, or the forms of any other value.
func Show(value any) { publish("display_data", BundleOf(value), "") }

// Clear removes what was displayed; with wait only when the next display comes.
func Clear(wait bool) { send("clear_output", map[string]any{"wait": wait}) }

// BundleOf returns the forms that a value has, its text among them.
func BundleOf(value any) Bundle {
	if bundle, ok := value.(Bundle); ok {
		return bundle
	}
	bundle := Bundle{}
	if displayer, ok := value.(Displayer); ok {
		for kind, form := range displayer.Display() {
			bundle[kind] = form
		}
	}
	if htmler, ok := value.(HTMLer); ok {
		bundle["text/html"] = htmler.HTML()
	}
	if picture, ok := value.(image.Image); ok {
		var data bytes.Buffer
		if png.Encode(&data, picture) == nil {
			bundle["image/png"] = base64.StdEncoding.EncodeToString(data.Bytes())
		}
	}
	if _, ok := bundle["text/plain"]; !ok {
		bundle["text/plain"] = fmt.Sprint(value)
	}
	return bundle
}

var places atomic.Int64

// Place is where something is displayed, and then shown anew.
type Place struct {
	id      string
	isShown atomic.Bool
}

// New returns a place in which nothing is displayed yet.
func New() *Place {
	return &Place{id: fmt.Sprintf("%d-%d", os.Getpid(), places.Add(1))}
}

// HTML shows HTML in this place.
func (p *Place) HTML(text string) { p.Show(Bundle{"text/html": text}) }

// Text shows plain text in this place.
func (p *Place) Text(text string) { p.Show(Bundle{"text/plain": text}) }

// Show shows a bundle, or the forms of any other value, in this place.
func (p *Place) Show(value any) {
	kind := "display_data"
	if p.isShown.Swap(true) {
		kind = "update_display_data"
	}
	publish(kind, BundleOf(value), p.id)
}

// publishResult shows the value of a fragment's last expression.
func publishResult(value any) { publish("execute_result", BundleOf(value), "") }

func publish(kind string, data Bundle, id string) {
	content := map[string]any{"data": data, "metadata": map[string]any{}}
	if id != "" {
		content["transient"] = map[string]any{"display_id": id}
	} else if kind != "execute_result" {
		content["transient"] = map[string]any{}
	}
	if !send(kind, content) {
		fmt.Println(data["text/plain"])
	}
}

// send sends a message to the kernel. It returns false where there is no kernel.
func send(kind string, content any) bool {
	text, err := json.Marshal(map[string]any{"kind": kind, "content": content})
	if err != nil {
		panic(fmt.Errorf("display: %w", err))
	}
	return connection.Send(text)
}
