// Node with @platformatic/kafka: parses each message, awaits the handler, commits what is handled.
import { Consumer, MessagesStreamModes } from "@platformatic/kafka";
import { handler, Progress, settings } from "./measure.mjs";

const consumer = new Consumer({
  clientId: "bench",
  groupId: settings.group,
  bootstrapBrokers: settings.brokers,
});
const stream = await consumer.consume({
  topics: [settings.topic],
  mode: MessagesStreamModes.EARLIEST,
  // Its own commits would cover messages that were fetched and not yet handled.
  autocommit: false,
});
const progress = new Progress(
  (offsets) =>
    consumer.commit({
      offsets: offsets.map(([partition, offset]) => ({
        topic: settings.topic,
        partition,
        offset: offset + 1n,
        leaderEpoch: -1,
      })),
    }),
  async () => {
    await stream.close();
    await consumer.close();
  },
);

// The group has been joined; fetching begins with the loop.
progress.start();
for await (const message of stream) {
  await handler({ data: JSON.parse(message.value) });
  progress.handled(message.partition, message.offset);
}
