package agent

import "strings"

// SetupSQL returns the statements by which a superuser gives the replication role
// what an agent does with it on another server, any number of times:
//   - pg_rewind reads files (PostgreSQL manual, pg_rewind, Notes)
//   - a checkpoint before a rewind, from version 15 on; before that the other
//     server's own agent makes one after its promotion
//   - the sizes of tablespaces, before a rebuild
//
// role is quoted as an identifier by the caller.
func SetupSQL(role string) string {
	return strings.ReplaceAll(`GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO ROLE;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO ROLE;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO ROLE;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO ROLE;
GRANT pg_read_all_stats TO ROLE;
`, "TO ROLE", "TO "+role)
}

// CheckpointRole is a predefined role since version 15, that SetupSQL's role is
// given where it is there.
const CheckpointRole = "pg_checkpoint"
