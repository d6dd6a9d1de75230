package main

import (
	"io"
	"log/slog"

	"github.com/pgproxy/pgproxy/configs"
)

// newLogger returns the program's logger and its level. The configuration has been
// validated.
func newLogger(cfg configs.LogConfig, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(slogLevel(cfg.Level))
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == configs.LogJSON {
		return slog.New(slog.NewJSONHandler(w, options)), level
	}
	return slog.New(slog.NewTextHandler(w, options)), level
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
