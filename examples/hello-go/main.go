// Says hello and how long it has been up; stops without dropping a request.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
)

func main() {
	message := os.Getenv("MESSAGE")
	if message == "" {
		message = "Hello from Rayfold on Go"
	}
	started := time.Now()
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		log.Printf("%s %s", request.Method, request.URL.Path)
		fmt.Fprintf(answer, "%s\nstarted %s\n", message, humanize.Time(started))
	})
	server := &http.Server{Addr: "127.0.0.1:" + os.Getenv("PORT")}
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		<-stopped
		// Stops accepting and ends once the requests under way are answered.
		_ = server.Shutdown(context.Background())
		close(done)
	}()
	log.Printf("listening on %s", server.Addr)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-done
}
