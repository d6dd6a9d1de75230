package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// psqlConnection is a psql that is fed by a pipe. It says on standard error, which it
// does not buffer, how each statement has ended.
type psqlConnection struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *bufio.Scanner
	ended bool
}

// psqlMark begins the line that follows each statement.
const psqlMark = "@@"

// connectPsql starts psql and waits until it is connected.
func connectPsql(ctx context.Context, cmd *exec.Cmd) (*psqlConnection, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start psql: %w", err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start psql: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start psql: %w", err)
	}
	p := &psqlConnection{cmd: cmd, stdin: stdin, said: bufio.NewScanner(stderr)}
	if err := p.exec(ctx, `\set VERBOSITY verbose`); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *psqlConnection) exec(ctx context.Context, sql string, args ...any) error {
	_, err := p.say(ctx, psqlText(sql, args)+psqlEnd(sql))
	return err
}

func (p *psqlConnection) value(ctx context.Context, sql string, args ...any) (int64, error) {
	text, err := p.say(ctx, psqlText(sql, args)+` \gset`)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// psqlEnd is a semicolon but for psql's own commands.
func psqlEnd(sql string) string {
	if strings.HasPrefix(sql, `\`) {
		return ""
	}
	return ";"
}

// psqlText writes the arguments into the statement, as one does with psql.
func psqlText(sql string, args []any) string {
	for i, a := range args {
		literal := fmt.Sprint(a)
		if text, ok := a.(string); ok {
			literal = "'" + strings.ReplaceAll(text, "'", "''") + "'"
		}
		sql = strings.ReplaceAll(sql, "$"+strconv.Itoa(i+1), literal)
	}
	return sql
}

// say writes a line and reads how it ended, and the value of the variable v. psql
// ends by itself when its connection ends, and when ctx does it is killed.
func (p *psqlConnection) say(ctx context.Context, line string) (value string, err error) {
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	if _, err := fmt.Fprintf(p.stdin, "%s\n\\warn %s :ERROR :SQLSTATE :v\n", line, psqlMark); err != nil {
		return "", p.end(fmt.Errorf("write to psql: %w", err))
	}
	var text string
	for p.said.Scan() {
		if rest, ok := strings.CutPrefix(p.said.Text(), psqlMark+" "); ok {
			return psqlAnswer(rest, text)
		}
		if text == "" {
			text = p.said.Text()
		}
	}
	if state, message, ok := psqlMessage(text); ok {
		return "", p.end(&sqlError{state, message})
	}
	return "", p.end(errors.New("psql has ended: " + text))
}

// psqlAnswer reads what stands behind the mark.
func psqlAnswer(rest, text string) (value string, err error) {
	words := strings.Fields(rest)
	if len(words) != 3 {
		return "", fmt.Errorf("read psql's answer: %q", rest)
	}
	if words[0] == "true" {
		return "", &sqlError{words[1], text}
	}
	return words[2], nil
}

// psqlMessage finds the SQLSTATE in "FATAL:  08007: text" (VERBOSITY verbose).
func psqlMessage(line string) (state, text string, ok bool) {
	severity, rest, _ := strings.Cut(line, ":  ")
	state, _, ok = strings.Cut(rest, ": ")
	return state, line, ok && len(state) == 5 && severity != ""
}

// end notes that psql is gone. Its connection is too.
func (p *psqlConnection) end(err error) error {
	p.ended = true
	return err
}

func (p *psqlConnection) closed() bool { return p.ended }

// close lets psql end by the end of its input, or kills it after a while.
func (p *psqlConnection) close() {
	p.ended = true
	_ = p.stdin.Close() // it may be gone
	timer := time.AfterFunc(time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for p.said.Scan() { // so that it does not block on its output
	}
	_ = p.cmd.Wait() // what it was told has been reported
}
