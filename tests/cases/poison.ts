// Does to itself what the message's header says; otherwise tells what it was handed.
import process from "node:process";

interface Event {
  headers: { seq: string; poison?: string; mib?: string };
  content_type: string;
  attempt: number;
  data: string | null | { pad?: string };
}

const size = (data: Event["data"]) => (typeof data === "string" ? data.length : (data?.pad ?? "").length);

function heap(): never {
  const kept: string[][] = [];
  while (true) {
    kept.push(new Array<string>(1000).fill("x"));
  }
}

export default async function (event: Event) {
  switch (event.headers.poison) {
    case "throw":
      throw new Error("poison");
    case "loop":
      while (true) {}
    case "hang":
      return await new Promise(() => {});
    case "exit":
      process.exit(1);
    case "kill":
      process.kill(process.pid, "SIGKILL");
      while (true) {}
    case "heap":
      heap();
    case "large":
      return "x".repeat(Number(event.headers.mib) << 20);
    case "no-json":
      return { big: 1n };
  }
  const { data, content_type, headers } = event;
  return { seq: Number(headers.seq), type: content_type, size: size(data), is_null: data === null };
}
