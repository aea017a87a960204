module peertunnel.example/bench/load

go 1.23
