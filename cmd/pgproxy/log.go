package main

import (
	"io"
	"log/slog"

	"github.com/pgproxy/pgproxy/configs"
)

// newLogger returns the program's logger. The configuration has been validated.
func newLogger(cfg configs.LogConfig, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: slogLevel(cfg.Level)}
	if cfg.Format == configs.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func slogLevel(level configs.LogLevel) slog.Level {
	switch level {
	case configs.LogDebug:
		return slog.LevelDebug
	case configs.LogInfo:
		return slog.LevelInfo
	case configs.LogWarn:
		return slog.LevelWarn
	case configs.LogError:
		return slog.LevelError
	}
	panic("BUG: log level " + string(level) + " has passed validation")
}
