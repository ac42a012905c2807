package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/pgzip"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/test/api/load"
)

// incusosImage is the compressed install image of IncusOS, in bytes, and recompressing what
// its customizer takes of a processor for each image, in seconds.
const (
	incusosImage  = 496_000_000
	recompressing = 4.2
)

const (
	// imageCrowd is how many people download at once.
	imageCrowd = 50
	// imageTries is how often the first byte and the processor's time are taken.
	imageTries = 51
	// imageRounds is how often each server serves the crowd, in turn.
	imageRounds = 3
)

func images() []measurement {
	return []measurement{{
		Name: "images", Take: takeImages,
		Rows: []metric{
			{ID: "image-size", What: "compressed install image", Unit: inBytes, Limit: 320e6, Against: "IncusOS"},
			{ID: "image-first-byte", What: "first byte of a customized image", Unit: inMilliseconds, Limit: 0.05},
			{ID: "image-cpu", What: "processor's time for a customized image of the real size, without sending it", Unit: inMilliseconds, Limit: 0.05,
				Against: "packing it anew, as the customizer of IncusOS does"},
			{ID: "image-crowd", What: "50 downloads of a customized image at once, the time", Unit: inSeconds, Limit: 1.25, Times: true,
				Against: "a static file server with the same bytes", Missed: "see its parts"},
			{ID: "image-memory", What: "memory of the service during 50 downloads", Unit: inBytes, Limit: 200e6},
		},
	}}
}

// takeImages packs the image that was built last as a publisher does, and serves it.
func takeImages(ctx context.Context, b *bench) (_ []record, err error) {
	tree, err := os.MkdirTemp(filepath.Join(b.root, ".build"), "bench-images-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for a release: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	size, unpacked, err := b.publishImage(ctx, tree)
	if err != nil {
		return nil, err
	}
	records := []record{{ID: "image-size", Value: float64(size), Other: incusosImage,
		How: fmt.Sprintf("the raw image, %s with its empty parts, as gzip.", megabytes(unpacked))}}
	ours, err := startServer(ctx, filepath.Join(b.root, "bin", "holdfast"), "image", "serve", tree, "--listen", "127.0.0.1:0")
	if err != nil {
		return records, err
	}
	defer ours.end()
	link, err := ours.choose(ctx)
	if err != nil {
		return records, err
	}
	name := strings.Replace(link, "?", ".img.gz?", 1)
	static := filepath.Join(tree, "static")
	if err := errors.Join(os.Mkdir(static, 0o755), ours.save(ctx, name, filepath.Join(static, "image"))); err != nil {
		return records, err
	}
	first, err := ours.takeFirst(ctx, name)
	if err != nil {
		return records, err
	}
	crowd, err := takeCrowd(ctx, ours, name, static)
	return slices.Concat(records, first, crowd), err
}

// publishImage puts the raw image of the build into a tree.
func (b *bench) publishImage(ctx context.Context, tree string) (size, unpacked int64, err error) {
	source, err := os.Open(filepath.Join(b.build(), "Holdfast_"+b.version+".raw"))
	if err != nil {
		return 0, 0, fmt.Errorf("opening the image of the build: %w", err)
	}
	defer source.Close()
	name := filepath.Join("x86_64", "Holdfast_"+b.version+".img.gz")
	target := filepath.Join(tree, b.version, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return 0, 0, fmt.Errorf("making a release: %w", err)
	}
	packed, err := os.Create(target)
	if err != nil {
		return 0, 0, fmt.Errorf("making a release: %w", err)
	}
	sum := sha256.New()
	// What a publisher uses, with the same effort: see compress.go of internal/release.
	z, err := pgzip.NewWriterLevel(io.MultiWriter(packed, sum), pgzip.DefaultCompression)
	if err == nil {
		unpacked, err = io.Copy(z, &bounded{ctx, source})
		err = errors.Join(err, z.Close())
	}
	if err = errors.Join(err, packed.Close()); err != nil {
		return 0, 0, fmt.Errorf("packing the image: %w", err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return 0, 0, fmt.Errorf("packing the image: %w", err)
	}
	index, err := json.Marshal(api.Index{Format: api.Format, Updates: []api.Update{{
		Format: api.Format, Channels: []string{"stable"}, Version: b.version, Files: []api.File{{Architecture: "x86_64", Component: api.ComponentOS,
			Filename: filepath.ToSlash(name), SHA256: hex.EncodeToString(sum.Sum(nil)), Size: info.Size(), Type: api.TypeImageRaw}},
	}}})
	if err != nil {
		return 0, 0, fmt.Errorf("encoding the index: %w", err)
	}
	return info.Size(), unpacked, os.WriteFile(filepath.Join(tree, "index.json"), index, 0o644)
}

// bounded is a reader that ends with its context.
type bounded struct {
	ctx context.Context
	io.Reader
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}

// server is a program that serves HTTP.
type server struct {
	command *exec.Cmd
	address string
	client  *http.Client
}

// startServer starts a program that says its address, as "... http://127.0.0.1:1234", in the
// first line of its output.
func startServer(ctx context.Context, argv ...string) (*server, error) {
	s := &server{command: exec.CommandContext(ctx, argv[0], argv[1:]...), client: &http.Client{
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: imageCrowd}}}
	out, err := s.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	if err := s.command.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	at := strings.Index(line, "http://")
	if at < 0 {
		s.end()
		return nil, fmt.Errorf("starting %s: it does not say its address: %q, %w", argv[0], line, err)
	}
	s.address = strings.TrimSpace(line[at:])
	return s, nil
}

func (s *server) end() {
	_ = s.command.Process.Kill() // it may have ended by itself
	_ = s.command.Wait()
	s.client.CloseIdleConnections()
}

// choose asks for the link of a choice as people make it.
func (s *server) choose(ctx context.Context) (string, error) {
	const choice = `{"architecture": "x86_64", "type": "raw", "seeds": {
		"install": {"target": {"bus": "nvme"}}, "applications": {"applications": [{"name": "incus"}]},
		"network": {"time": {"timezone": "Europe/Vienna"}}}}`
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.address+"/1.0/choices", strings.NewReader(choice))
	if err != nil {
		return "", err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking for a link: %w", err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return "", fmt.Errorf("asking for a link: %w", err)
	}
	var answer struct {
		Metadata struct {
			Link string `json:"link"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Metadata.Link == "" {
		return "", fmt.Errorf("asking for a link: %d %.200s", response.StatusCode, text)
	}
	return answer.Metadata.Link, nil
}

// get reads limit bytes of a file into w, all of them for 0, and gives how long the first
// one took.
func (s *server) get(ctx context.Context, path string, w io.Writer, limit int64) (first time.Duration, n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address+path, nil)
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	response, err := s.client.Do(request)
	if err != nil {
		return 0, 0, fmt.Errorf("downloading an image: %w", err)
	}
	defer response.Body.Close()
	head := make([]byte, 1)
	if _, err := io.ReadFull(response.Body, head); err != nil || response.StatusCode != http.StatusOK {
		return 0, 0, errors.Join(fmt.Errorf("downloading an image: status %d", response.StatusCode), err)
	}
	first = time.Since(begun)
	body := io.MultiReader(bytes.NewReader(head), response.Body)
	if limit > 0 {
		body = io.LimitReader(body, limit)
	}
	n, err = io.Copy(w, body)
	if err == nil && limit == 0 && n != response.ContentLength {
		err = fmt.Errorf("downloading an image: %d bytes of %d", n, response.ContentLength)
	}
	return first, n, err
}

// save downloads the image, once it is made ready, and checks that it can be unpacked.
func (s *server) save(ctx context.Context, path, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("keeping an image: %w", err)
	}
	defer f.Close()
	if _, _, err := s.get(ctx, path, f, 0); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading an image back: %w", err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("reading an image back: %w", err)
	}
	if _, err := io.Copy(io.Discard, &bounded{ctx, z}); err != nil {
		return fmt.Errorf("reading an image back: %w", err)
	}
	return nil
}

// takeFirst asks for the beginning of the image some times: all that is made for it is in
// memory then, and what follows is sent from the disk by the kernel.
func (s *server) takeFirst(ctx context.Context, path string) ([]record, error) {
	var firsts []float64
	before, err := processorTime(s.command.Process.Pid)
	if err != nil {
		return nil, err
	}
	for range imageTries {
		first, _, err := s.get(ctx, path, io.Discard, 1)
		if err != nil {
			return nil, err
		}
		firsts = append(firsts, first.Seconds())
	}
	made, err := processorTime(s.command.Process.Pid)
	if err != nil {
		return nil, err
	}
	if _, _, err := s.get(ctx, path, io.Discard, 0); err != nil {
		return nil, err
	}
	sent, err := processorTime(s.command.Process.Pid)
	if err != nil {
		return nil, err
	}
	each := (made - before) / imageTries
	return []record{
		{ID: "image-first-byte", Value: median(firsts), How: fmt.Sprintf(
			"from the request for the link of a choice to the first byte of the .img.gz, through 127.0.0.1, median of %d; slowest %.1f ms.",
			imageTries, 1000*slices.Max(firsts))},
		{ID: "image-cpu", Value: each.Seconds(), Other: recompressing, How: fmt.Sprintf(
			"`holdfast image serve`, its processor's time in user and system mode for %d requests that leave after the first byte. One whole download takes %.0f ms, nearly all of it the kernel's for sending.",
			imageTries, (sent-made).Seconds()*1000)},
	}, nil
}

// takeCrowd has a crowd download from both servers in turn.
func takeCrowd(ctx context.Context, ours *server, name, folder string) ([]record, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	static, err := startServer(ctx, program, "-static", folder)
	if err != nil {
		return nil, err
	}
	defer static.end()
	var us, them []float64
	var memory int64
	for range imageRounds {
		took, most, err := ours.crowd(ctx, name)
		if err != nil {
			return nil, err
		}
		us, memory = append(us, took.Seconds()), max(memory, most)
		if took, _, err = static.crowd(ctx, "/image"); err != nil {
			return nil, err
		}
		them = append(them, took.Seconds())
	}
	conditions := fmt.Sprintf("%d processors, load %s after", runtime.NumCPU(), loadAverage())
	return []record{
		{ID: "image-crowd", Value: median(us), Other: median(them), How: fmt.Sprintf(
			"`holdfast image serve` and net/http.FileServer in turn, each a process of its own, whole images through 127.0.0.1, medians of %d; ours %s, the static one's %s (%s). A ratio of 1.25 is 0.8 of its throughput.",
			imageRounds, each(us), each(them), conditions)},
		{ID: "image-memory", Value: float64(memory), How: "largest resident set of `holdfast image serve` during these downloads, looked at every 100 ms."},
	}, nil
}

// crowd downloads one file many times at once. It gives the time and the server's largest
// resident set.
func (s *server) crowd(ctx context.Context, path string) (took time.Duration, memory int64, err error) {
	done := make(chan error, imageCrowd)
	begun := time.Now()
	for range imageCrowd {
		go func() {
			_, _, err := s.get(ctx, path, io.Discard, 0)
			done <- err
		}()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for left := imageCrowd; left > 0; {
		select {
		case one := <-done:
			err = errors.Join(err, one)
			left--
		case <-tick.C:
			now, failed := load.RSS(s.command.Process.Pid)
			memory, err = max(memory, now), errors.Join(err, failed)
		}
	}
	return time.Since(begun), memory, err
}

// processorTime is what a process has used, in user and system mode. (proc(5), 1/100 s)
func processorTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the processor's time of %d: %w", pid, err)
	}
	return parseProcessorTime(string(text))
}

func parseProcessorTime(stat string) (time.Duration, error) {
	// The name of the program, in brackets, may hold anything.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("reading the processor's time: %d fields behind the name, 13 are needed", len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the processor's time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// serveStatic serves a folder until it is ended: the server to compare with.
func serveStatic(ctx context.Context, folder string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	fmt.Printf("Serving %s at http://%s\n", folder, listener.Addr())
	server := &http.Server{Handler: http.FileServer(http.Dir(folder)), ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(listener)
}
